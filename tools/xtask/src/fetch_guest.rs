//! `cargo xtask fetch-guest`: Debian's cloud kernels, ready to boot, from Debian's packages.
//!
//! For each kernel series a directory with `bzImage`, the `vmlinux` inside it, `release`, and an
//! `initramfs` of busybox and the virtio modules; and `testbed/`, the outer machine of the Linux
//! tests. What is there and made by the same recipe is left alone; what a broken run left half
//! done is made again.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::apt;
use crate::failure::{Context, Failure, Outcome};
use crate::guest::bzimage;
use crate::guest::cpio::Archive;
use crate::guest::debian::{self, Apt, SERIES, Series};
use crate::guest::modules::{Module, Modules};
use crate::report;
use crate::workspace::Workspace;

/// First program of the guests.
const GUEST_INIT: &str = include_str!("../../../resources/guest/init");
/// First program of the testbed's outer machine.
const TESTBED_INIT: &str = include_str!("../../../tests/testbed/init");

/// What the guest loads: every virtio device, the power button with the event device that reports
/// it, and the panic device.
const GUEST_MODULES: [&str; 14] = [
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio-rng",
    "virtio_balloon",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "virtiofs",
    "virtio_pmem",
    "virtio_mem",
    "button",
    "evdev",
    "pvpanic-mmio",
];

/// What the outer machine loads at boot. KVM last: it waits for the clock, and the disks and the
/// port appear meanwhile.
const TESTBED_MODULES: [&str; 6] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "irqbypass",
    "kvm",
    "kvm-amd",
];

/// What a test in the outer machine may load by name (`load tun`).
const TESTBED_EXTRAS: [&str; 17] = [
    "tun",
    "bridge",
    "veth",
    "nf_tables",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_chain_nat",
    "nft_reject_inet",
    "macvtap",
    "vhost_net",
    "vhost_vsock",
    "vsock_loopback",
    "overlay",
    "loop",
    "sch_tbf",
    "sch_ingress",
];

/// The series whose kernel runs the outer machine (see docs/testing.md for why).
const TESTBED_SERIES: &str = "6.1";

#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask fetch-guest /tmp/guest")]
pub(crate) struct Arguments {
    /// Where to put it [default: target/guest]
    directory: Option<PathBuf>,
    /// Look for newer packages even if everything is there
    #[arg(long)]
    refresh: bool,
    /// Do not install missing programs
    #[arg(long)]
    no_install: bool,
}

/// Fetches, and prints the command that boots the result.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Outcome<()> {
    let directory = arguments
        .directory
        .clone()
        .unwrap_or_else(|| workspace.guest_dir());
    fetch(&directory, arguments.refresh, !arguments.no_install)?;
    let newest = SERIES.last().map_or("", |series| series.name);
    let place = directory.join(newest);
    // As short as a reader in the repository can type it.
    let image = place.strip_prefix(&workspace.root).unwrap_or(&place);
    report::note("A Linux shell on the serial console (Ctrl-A x quits):");
    report::data(&format!(
        "cargo run --release -- run --kernel {0}/bzImage --initrd {0}/initramfs \
         --cmdline console=ttyS0 --memory 512M",
        image.display()
    ));
    Ok(())
}

/// Makes sure that `directory` holds every series and the testbed's machine.
pub(crate) fn fetch(directory: &Path, refresh: bool, install: bool) -> Outcome<()> {
    let fetcher = Fetcher {
        directory,
        refresh,
        install,
        busybox: None,
    };
    fetcher.run()
}

struct Fetcher<'a> {
    directory: &'a Path,
    refresh: bool,
    install: bool,
    busybox: Option<Vec<u8>>,
}

impl Fetcher<'_> {
    fn run(mut self) -> Outcome<()> {
        for series in &SERIES {
            self.series(series)?;
        }
        self.testbed()
    }

    /// One kernel with its initramfs.
    fn series(&mut self, series: &Series) -> Outcome<()> {
        let place = self.directory.join(series.name);
        let stamp = Stamp::new(&place, &recipe(GUEST_INIT, &GUEST_MODULES, &[]));
        if stamp.holds() && !self.refresh {
            return Ok(());
        }
        stamp.clear()?;
        apt::provide(&bzimage::TOOLS, self.install)?;
        let packages = self.directory.join("packages");
        let (apt, package) = debian::find_kernel(series, &packages)?;
        report::note(&format!("{}: {package}", series.name));
        let root = apt.unpack(&package, &packages.join(&package))?;
        let release = package.trim_start_matches("linux-image-");

        fs::create_dir_all(&place).context(place.display())?;
        let source = root.join("boot").join(format!("vmlinuz-{release}"));
        let image = fs::read(&source).context(source.display())?;
        write(&place.join("bzImage"), &image)?;
        bzimage::extract(&image, &place.join("vmlinux")).context(source.display())?;
        write(&place.join("release"), format!("{release}\n").as_bytes())?;

        let modules = Modules::of_package(&root, release)?;
        let initramfs = self.initramfs(&modules, GUEST_INIT, &GUEST_MODULES, &[])?;
        write(&place.join("initramfs"), &initramfs)?;
        stamp.set()
    }

    /// The outer machine: a kernel and its initramfs.
    fn testbed(&mut self) -> Outcome<()> {
        let place = self.directory.join("testbed");
        let kernel = self.directory.join(TESTBED_SERIES);
        let release_file = kernel.join("release");
        let release = fs::read_to_string(&release_file).context(release_file.display())?;
        let release = release.trim_end();
        let mut recipe = recipe(TESTBED_INIT, &TESTBED_MODULES, &TESTBED_EXTRAS);
        recipe.push_str(release);
        let stamp = Stamp::new(&place, &recipe);
        if stamp.holds() {
            return Ok(());
        }
        stamp.clear()?;
        fs::create_dir_all(&place).context(place.display())?;
        let package = self
            .directory
            .join("packages")
            .join(format!("linux-image-{release}"));
        let modules = Modules::of_package(&package.join("root"), release)?;
        let initramfs =
            self.initramfs(&modules, TESTBED_INIT, &TESTBED_MODULES, &TESTBED_EXTRAS)?;
        write(&place.join("initramfs"), &initramfs)?;
        let image = kernel.join("bzImage");
        write(
            &place.join("bzImage"),
            &fs::read(&image).context(image.display())?,
        )?;
        // The harness compares this with its own copy and refuses to run an outdated machine.
        write(&place.join("init"), TESTBED_INIT.as_bytes())?;
        stamp.set()
    }

    /// busybox, `init`, the modules to load at boot in `modules/order`, and for each further one a
    /// list of files in `modules/NAME.load`.
    fn initramfs(
        &mut self,
        modules: &Modules,
        init: &str,
        at_boot: &[&str],
        on_demand: &[&str],
    ) -> Outcome<Vec<u8>> {
        let busybox = self.busybox()?;
        let mut files: Vec<(String, String)> = Vec::new();
        let mut objects: Vec<Module> = Vec::new();
        for wanted in at_boot {
            modules.add(wanted, &mut objects)?;
        }
        files.push(("modules/order".to_owned(), listing(&objects)));
        for wanted in on_demand {
            let mut closure = Vec::new();
            modules.add(wanted, &mut closure)?;
            files.push((format!("modules/{wanted}.load"), listing(&closure)));
            for module in closure {
                if objects.iter().all(|other| other.name != module.name) {
                    objects.push(module);
                }
            }
        }
        archive(busybox, init, &files, &objects).context("initramfs")
    }

    /// Debian's static busybox.
    fn busybox(&mut self) -> Outcome<&[u8]> {
        if self.busybox.is_none() {
            let place = self.directory.join("packages/busybox-static");
            let root = Apt::system().unpack("busybox-static", &place)?;
            let program = ["bin/busybox", "usr/bin/busybox"]
                .iter()
                .map(|name| root.join(name))
                .find(|path| path.is_file())
                .ok_or_else(|| Failure::new("the package busybox-static has no busybox"))?;
            self.busybox = Some(fs::read(&program).context(program.display())?);
        }
        Ok(self.busybox.as_deref().unwrap_or_default())
    }
}

/// The file names of modules, a line each.
fn listing(modules: &[Module]) -> String {
    modules.iter().fold(String::new(), |mut text, module| {
        let _ = writeln!(text, "{}.ko", module.name);
        text
    })
}

fn archive(
    busybox: &[u8],
    init: &str,
    files: &[(String, String)],
    modules: &[Module],
) -> std::io::Result<Vec<u8>> {
    let mut archive = Archive::new();
    for directory in [
        "bin", "dev", "etc", "modules", "proc", "root", "run", "sys", "tmp",
    ] {
        archive.directory(directory)?;
    }
    archive.executable("bin/busybox", busybox)?;
    archive.link("bin/sh", "busybox")?;
    archive.executable("init", init.as_bytes())?;
    for (name, text) in files {
        archive.file(name, text.as_bytes())?;
    }
    for module in modules {
        archive.file(&format!("modules/{}.ko", module.name), &module.object)?;
    }
    archive.finish()
}

/// Everything that decides what a directory holds, save the packages.
fn recipe(init: &str, modules: &[&str], extras: &[&str]) -> String {
    format!("{}\n{}\n{init}", modules.join(" "), extras.join(" "))
}

/// Says that a directory was finished, and by which recipe.
struct Stamp {
    path: PathBuf,
    recipe: String,
}

impl Stamp {
    fn new(directory: &Path, recipe: &str) -> Self {
        Self {
            path: directory.join("recipe"),
            recipe: recipe.to_owned(),
        }
    }

    fn holds(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|recipe| recipe == self.recipe)
    }

    fn clear(&self) -> Outcome<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(self.path.display())
            }
            _ => Ok(()),
        }
    }

    fn set(&self) -> Outcome<()> {
        write(&self.path, self.recipe.as_bytes())
    }
}

fn write(path: &Path, content: &[u8]) -> Outcome<()> {
    fs::write(path, content).context(path.display())
}
