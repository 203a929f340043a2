//! What a newcomer gets from `cargo xtask fetch-guest`: the command it prints leads to a shell on
//! the console.

use harness::host::Host;

#[test]
fn the_fetched_guest_has_a_shell_that_obeys() {
    let Some(mut host) = Host::acquire() else {
        return;
    };
    // As printed, with the console on pipes: descriptor 8 keeps its input open.
    let script = format!(
        "mkfifo input console
        exec 8<> input
        {thimble} run --kernel {kernel} --initrd {initramfs} --cmdline console=ttyS0 \
            --memory 512M < input > console 2>&1 &
        while IFS= read -r line; do
            printf '%s\\n' \"$line\"
            case \"$line\" in
            'Linux in thimble.'*) echo 'echo sum $((40 + 2)); poweroff' >&8 ;;
            esac
        done < console
        wait $!",
        thimble = host.thimble(),
        kernel = host.guest_file("6.12/bzImage"),
        initramfs = host.guest_file("6.12/initramfs"),
    );
    let life = host.run(&script);
    let said = life.text();
    assert_eq!(life.status, 0, "{said}");
    assert!(said.replace('\r', "").contains("\nsum 42\n"), "{said}");
}
