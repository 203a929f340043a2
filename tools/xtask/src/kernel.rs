//! `cargo xtask kernel`: a small Linux for microVMs, built from Debian's `linux-source` package
//! with the fragment resources/kernel/microvm.config on top of `tinyconfig`. Three to four minutes
//! on two cores.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{self, Tool, tool};
use crate::failure::{Context, Failure, Outcome};
use crate::process;
use crate::report;
use crate::workspace::Workspace;

/// What building a kernel takes.
const TOOLS: [Tool; 6] = [
    tool("gcc", "gcc"),
    tool("make", "make"),
    tool("flex", "flex"),
    tool("bison", "bison"),
    tool("bc", "bc"),
    tool("xz", "xz-utils"),
];
/// The same, without a program to look for. libelf is objtool's.
const PACKAGES: [&str; 3] = ["linux-source", "libc6-dev", "libelf-dev"];

/// The fragment, from the root.
const FRAGMENT: &str = "resources/kernel/microvm.config";

#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask kernel && \
    cargo run --release -- run --kernel target/kernel/vmlinux")]
pub(crate) struct Arguments {
    /// Do not install missing packages
    #[arg(long)]
    no_install: bool,
}

/// Builds target/kernel/vmlinux and prints its path.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Outcome<()> {
    apt::provide(&TOOLS, !arguments.no_install)?;
    apt::provide_packages(&PACKAGES, !arguments.no_install)?;
    let directory = workspace.target.join("kernel");
    fs::create_dir_all(&directory).context(directory.display())?;
    let source = unpack(&directory)?;
    let build = directory.join("build");
    fs::create_dir_all(&build).context(build.display())?;

    let fragment = workspace.root.join(FRAGMENT);
    configure(&source, &build, &fragment)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    process::run(
        make(&source, &build)
            .arg(format!("-j{jobs}"))
            .arg("vmlinux"),
    )?;

    let vmlinux = directory.join("vmlinux");
    process::run(
        Command::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(&vmlinux)
            .arg(build.join("vmlinux")),
    )?;
    let size = fs::metadata(&vmlinux).context(vmlinux.display())?.len();
    report::note(&format!(
        "{:.1} MB",
        f64::from(u32::try_from(size).unwrap_or(u32::MAX)) / 1e6
    ));
    report::data(&vmlinux.display().to_string());
    Ok(())
}

/// `make` of a build outside the source tree, with a fixed name and time so that the same source
/// and configuration give the same kernel.
fn make(source: &Path, build: &Path) -> Command {
    let mut command = Command::new("make");
    command
        .arg("-s")
        .arg("-C")
        .arg(source)
        .arg(format!("O={}", build.display()));
    command.args([
        "KBUILD_BUILD_USER=thimble",
        "KBUILD_BUILD_HOST=thimble",
        "KBUILD_BUILD_TIMESTAMP=1970-01-01",
    ]);
    command
}

/// The newest source package's archive, unpacked once.
fn unpack(directory: &Path) -> Outcome<PathBuf> {
    let archive = newest_archive()?;
    let name = archive
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let source = directory.join(name.trim_end_matches(".tar.xz"));
    let unpacked = directory.join(format!("{name}.unpacked"));
    if unpacked.is_file() && source.is_dir() {
        return Ok(source);
    }
    process::run(
        Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(directory),
    )?;
    fs::write(&unpacked, b"").context(unpacked.display())?;
    Ok(source)
}

/// Debian's `/usr/src/linux-source-VERSION.tar.xz`, of the highest version.
fn newest_archive() -> Outcome<PathBuf> {
    let directory = Path::new("/usr/src");
    let mut archives: Vec<PathBuf> = fs::read_dir(directory)
        .context(directory.display())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("linux-source-") && name.ends_with(".tar.xz")
        })
        .collect();
    archives.sort_by_key(|path| version(path));
    archives
        .pop()
        .ok_or_else(|| Failure::new("/usr/src has no linux-source archive"))
}

/// The version in an archive's name, as numbers.
fn version(path: &Path) -> Vec<u64> {
    path.to_string_lossy()
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// `tinyconfig` plus the fragment, and a check that nothing in the fragment was dropped for want
/// of something it depends on.
fn configure(source: &Path, build: &Path, fragment: &Path) -> Outcome<()> {
    let wanted = fs::read_to_string(fragment).context(fragment.display())?;
    process::run(make(source, build).arg("tinyconfig"))?;
    let config = build.join(".config");
    let tiny = fs::read_to_string(&config).context(config.display())?;
    fs::write(&config, merged(&tiny, &wanted)).context(config.display())?;
    process::run(make(source, build).arg("olddefconfig"))?;
    let got = fs::read_to_string(&config).context(config.display())?;
    let dropped = dropped(&wanted, &got);
    if dropped.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{}: not taken over: {}",
        fragment.display(),
        dropped.join(", ")
    )))
}

/// The name in `CONFIG_NAME=value` and in `# CONFIG_NAME is not set`.
fn symbol(line: &str) -> Option<&str> {
    let name = line.strip_prefix("# ").unwrap_or(line);
    name.starts_with("CONFIG_")
        .then(|| name.split(['=', ' ']).next())
        .flatten()
}

/// `base` with the settings of `fragment` in place of its own; kconfig warns of a symbol that is
/// set twice.
fn merged(base: &str, fragment: &str) -> String {
    let set: BTreeSet<&str> = fragment.lines().filter_map(symbol).collect();
    let kept = base
        .lines()
        .filter(|line| !symbol(line).is_some_and(|name| set.contains(name)));
    kept.chain(fragment.lines())
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The settings of `wanted` that are not in `got`. Kconfig leaves out what cannot be chosen, which
/// is as good as "is not set".
fn dropped<'a>(wanted: &'a str, got: &str) -> Vec<&'a str> {
    wanted
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|line| match line.strip_suffix("=n") {
            Some(name) => got.lines().any(|other| other == format!("{name}=y")),
            None => !got.lines().any(|other| other == *line),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_did_not_take_are_named() {
        let wanted = "# comment\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C=n\nCONFIG_D=n\n";
        let got = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_D=y\n";
        assert_eq!(dropped(wanted, got), ["CONFIG_B=y", "CONFIG_D=n"]);
    }

    #[test]
    fn a_fragment_replaces_what_it_names() {
        let base = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=1\n";
        let fragment = "# about B\nCONFIG_B=y\nCONFIG_C=2\n";
        assert_eq!(
            merged(base, fragment),
            "CONFIG_A=y\n# about B\nCONFIG_B=y\nCONFIG_C=2\n"
        );
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version(Path::new("linux-source-6.1")) < version(Path::new("linux-source-6.12")));
    }
}
