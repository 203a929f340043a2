//! How a guest program is built: plain `rustc` on `no_std` sources, linked by link.ld at 1 MiB.
//!
//! A source file of two build scripts, firmware/build.rs and tests/build.rs (`#[path]`), so that the
//! built-in guest and the test guests cannot drift apart. Cargo's own flags are of no use here: they
//! are meant for programs of the host.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// Flags of every guest crate. The code model stays small and static: all addresses are known.
const FLAGS: &[&str] = &[
    "--edition=2024",
    "--target=x86_64-unknown-linux-gnu",
    "-Cpanic=abort",
    "-Copt-level=s",
    "-Ccodegen-units=1",
    "-Crelocation-model=static",
    "-Ctarget-feature=+crt-static",
    "-Clto=fat",
    "-Cforce-unwind-tables=no",
    "-Cdebuginfo=0",
    "-Cstrip=symbols",
];

/// Flags of a program: nothing of the host's C library is linked.
const LINK_FLAGS: &[&str] = &[
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,max-page-size=4096",
    "-Clink-arg=-Wl,-z,noexecstack",
];

/// The runtime, compiled and ready for programs to be linked with.
pub(crate) struct Runtime {
    rustc: PathBuf,
    folder: PathBuf,
    library: PathBuf,
    out: PathBuf,
}

impl Runtime {
    /// Compiles the runtime of `folder` (firmware/guest) into `out`, and tells cargo what it is
    /// made of.
    pub(crate) fn build(folder: &Path, out: &Path) -> io::Result<Self> {
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let runtime = Self {
            rustc: PathBuf::from(rustc),
            folder: folder.to_path_buf(),
            library: out.join("librt.rlib"),
            out: out.to_path_buf(),
        };
        for input in ["compile.rs", "link.ld", "rt"] {
            rerun_if_changed(&folder.join(input));
        }
        let mut command = runtime.command("rt", &folder.join("rt/lib.rs"));
        command
            .arg("--crate-type=rlib")
            .arg("-o")
            .arg(&runtime.library);
        finish(&mut command.spawn()?, "rt")?;
        Ok(runtime)
    }

    /// Starts to compile the program whose crate root is `source`; `finish` waits for it.
    pub(crate) fn start(&self, name: &str, source: &Path) -> io::Result<Child> {
        let mut command = self.command(name, source);
        command.arg("--crate-type=bin").args(LINK_FLAGS);
        command.arg(joined("-Clink-arg=-Wl,-T,", &self.folder.join("link.ld")));
        command.arg("--extern").arg(joined("rt=", &self.library));
        command.arg("-o").arg(self.image(name));
        command.spawn()
    }

    /// Where the program `name` is put.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.out.join(format!("{name}.elf"))
    }

    fn command(&self, name: &str, source: &Path) -> Command {
        let mut command = Command::new(&self.rustc);
        command
            .arg("--crate-name")
            .arg(name)
            .args(FLAGS)
            .arg(source);
        command
    }
}

/// Waits for a compiler; its messages are already on stderr, which cargo shows on failure.
pub(crate) fn finish(compiler: &mut Child, name: &str) -> io::Result<()> {
    let status = compiler.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "compiling the guest program {name} failed ({status})"
    )))
}

/// Tells cargo that the build script depends on a file, or on everything in a folder.
pub(crate) fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn joined(flag: &str, path: &Path) -> std::ffi::OsString {
    let mut joined = OsStr::new(flag).to_os_string();
    joined.push(path);
    joined
}
