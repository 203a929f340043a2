# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_thimble_global_optspecs
    string join \n h/help V/version
end

function __fish_thimble_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_thimble_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_thimble_using_subcommand
    set -l cmd (__fish_thimble_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c thimble -n "__fish_thimble_needs_command" -s h -l help -d 'Print help'
complete -c thimble -n "__fish_thimble_needs_command" -s V -l version -d 'Print version'
complete -c thimble -n "__fish_thimble_needs_command" -f -a "run" -d 'Start a virtual machine and stay until it ends'
complete -c thimble -n "__fish_thimble_needs_command" -f -a "qmp" -d 'Talk to the control socket of a running machine'
complete -c thimble -n "__fish_thimble_needs_command" -f -a "check" -d 'Check whether this host can run virtual machines'
complete -c thimble -n "__fish_thimble_needs_command" -f -a "completions" -d 'Print the completions for a shell'
complete -c thimble -n "__fish_thimble_needs_command" -f -a "man" -d 'Print the man page, or write all of them into a directory'
complete -c thimble -n "__fish_thimble_using_subcommand run" -l config -d 'Read the configuration, as JSON, from FILE, or from standard input if it is -' -r -F
complete -c thimble -n "__fish_thimble_using_subcommand run" -l name -d 'The machine\'s name' -r
complete -c thimble -n "__fish_thimble_using_subcommand run" -l uuid -d 'The machine\'s UUID' -r
complete -c thimble -n "__fish_thimble_using_subcommand run" -l machine -d 'The hardware that the guest sees [default: thimble-1]' -r -f -a "thimble-1\t''"
complete -c thimble -n "__fish_thimble_using_subcommand run" -l cpus -d 'The number of CPUs, 1 to 32 [default: 1]' -r
complete -c thimble -n "__fish_thimble_using_subcommand run" -l cpu -d 'The CPU\'s features: host, then +FEATURE to add and -FEATURE to hide, separated by commas [default: host]' -r
complete -c thimble -n "__fish_thimble_using_subcommand run" -l memory -d 'The guest\'s memory: a number of MiB, or one with K, M, G or T [default: 128M]' -r
complete -c thimble -n "__fish_thimble_using_subcommand run" -l kernel -d 'The kernel to boot, an ELF vmlinux or a bzImage [default: the built-in guest]' -r -F
complete -c thimble -n "__fish_thimble_using_subcommand run" -l initrd -d 'The kernel\'s initial ramdisk' -r -F
complete -c thimble -n "__fish_thimble_using_subcommand run" -l cmdline -d 'The kernel\'s command line' -r
complete -c thimble -n "__fish_thimble_using_subcommand run" -l disk -d 'Add a disk: its image file or block device, or a list of the keys below' -r
complete -c thimble -n "__fish_thimble_using_subcommand run" -l rng -d 'Add a random number generator' -r -f -a "true\t''
false\t''"
complete -c thimble -n "__fish_thimble_using_subcommand run" -l net -d 'Add a network card: tap=NAME or fd=N[:N...], and more keys after commas' -r
complete -c thimble -n "__fish_thimble_using_subcommand run" -l vsock -d 'Add sockets between guest and host: the path for host programs to connect to, or a list of the keys below' -r
complete -c thimble -n "__fish_thimble_using_subcommand run" -l serial -d 'Connect the serial port: stdio, null, pty, file=PATH or socket=PATH [default: stdio]' -r
complete -c thimble -n "__fish_thimble_using_subcommand run" -l control -d 'Add a control socket: a path to create, or fd=N for one that is inherited' -r
complete -c thimble -n "__fish_thimble_using_subcommand run" -l paused -d 'Wait for `cont` on a control socket before the guest\'s first instruction' -r -f -a "true\t''
false\t''"
complete -c thimble -n "__fish_thimble_using_subcommand run" -l pidfile -d 'Write the process id to FILE' -r -F
complete -c thimble -n "__fish_thimble_using_subcommand run" -l daemonize -d 'Go to the background once the control sockets answer; the serial port is then null by default' -r -f -a "true\t''
false\t''"
complete -c thimble -n "__fish_thimble_using_subcommand run" -l log-level -d 'How much to log [default: warn]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c thimble -n "__fish_thimble_using_subcommand run" -l log-file -d 'Append the log to FILE instead of standard error' -r -F
complete -c thimble -n "__fish_thimble_using_subcommand run" -l on-reboot -d 'What a reboot of the guest leads to [default: reset]' -r -f -a "reset\t''
shutdown\t''"
complete -c thimble -n "__fish_thimble_using_subcommand run" -l on-poweroff -d 'What a power-off or a final halt of the guest leads to [default: poweroff]' -r -f -a "poweroff\t''
pause\t''"
complete -c thimble -n "__fish_thimble_using_subcommand run" -l on-panic -d 'What a panic of the guest leads to [default: shutdown]' -r -f -a "pause\t''
shutdown\t''
exit-failure\t''
none\t''"
complete -c thimble -n "__fish_thimble_using_subcommand run" -l dump-config -d 'Print the effective configuration as JSON and exit'
complete -c thimble -n "__fish_thimble_using_subcommand run" -s h -l help -d 'Print help'
complete -c thimble -n "__fish_thimble_using_subcommand qmp" -s h -l help -d 'Print help'
complete -c thimble -n "__fish_thimble_using_subcommand check" -l json -d 'Print the results as JSON'
complete -c thimble -n "__fish_thimble_using_subcommand check" -s h -l help -d 'Print help'
complete -c thimble -n "__fish_thimble_using_subcommand completions" -s h -l help -d 'Print help'
complete -c thimble -n "__fish_thimble_using_subcommand man" -s h -l help -d 'Print help'
