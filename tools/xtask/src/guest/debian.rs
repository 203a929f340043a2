//! Getting Debian packages without installing them: finding a kernel series, downloading with the
//! machine's own apt, unpacking with dpkg. None of it needs root, except bringing empty package
//! lists up to date.
//!
//! A Debian release carries one or two kernel series. What this machine's release lacks comes from
//! the release that has it, on the mirror the machine already uses, by a private apt configuration
//! that leaves the system's alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt;
use crate::failure::{Context, Failure, Outcome};
use crate::process;
use crate::report;

/// A kernel series and the Debian release that is known to carry it.
pub(crate) struct Series {
    /// `6.1`.
    pub(crate) name: &'static str,
    /// The suite to ask when this machine's own package lists have no such kernel.
    suite: &'static str,
}

/// The kernels that guests are tested with: the ones of Debian 12 and 13.
pub(crate) const SERIES: [Series; 2] = [
    Series {
        name: "6.1",
        suite: "bookworm",
    },
    Series {
        name: "6.12",
        suite: "trixie",
    },
];

/// Root's apt fetches as a user who cannot write below our directories, and warns about it.
const UNSANDBOXED: &str = "APT::Sandbox::User=root";

/// A way to call apt: the system's, or one with lists of its own.
pub(crate) struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// The machine's own configuration and package lists.
    pub(crate) fn system() -> Self {
        Self {
            options: Vec::new(),
        }
    }

    /// One for `suite` alone, keeping its lists in `directory`.
    fn private(suite: &str, directory: &Path) -> Outcome<Self> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            let path = directory.join(sub);
            fs::create_dir_all(&path).context(path.display())?;
        }
        let sources = directory.join("sources.list");
        let mirror = mirror()?;
        let lines = format!("deb {mirror} {suite} main\ndeb {mirror} {suite}-updates main\n");
        fs::write(&sources, lines).context(sources.display())?;
        let set = |key: &str, value: &Path| format!("{key}={}", value.display());
        let apt = Self {
            options: vec![
                set("Dir::Etc::SourceList", &sources),
                set("Dir::Etc::SourceParts", Path::new("/dev/null")),
                set("Dir::State::lists", &directory.join("lists")),
                set("Dir::Cache", &directory.join("cache")),
                UNSANDBOXED.to_owned(),
            ],
        };
        process::run(apt.command("apt-get").args(["-q", "update"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }

    /// The newest cloud kernel package of a series that these lists have.
    fn newest_kernel(&self, series: &str) -> Outcome<Option<String>> {
        let pattern = format!(
            "^linux-image-{}\\.[0-9].*-cloud-amd64$",
            series.replace('.', "\\.")
        );
        let mut search = self.command("apt-cache");
        search.args(["search", "--names-only", &pattern]);
        let listing = process::capture(&mut search)?;
        Ok(listing
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .max_by_key(|name| numbers(name))
            .map(str::to_owned))
    }

    /// Downloads a package into `directory` and unpacks it to `directory/root`.
    pub(crate) fn unpack(&self, package: &str, directory: &Path) -> Outcome<PathBuf> {
        let root = directory.join("root");
        fs::create_dir_all(directory).context(directory.display())?;
        // apt checks what is there already and does not fetch a whole file again.
        process::run(
            self.command("apt-get")
                .args(["-q", "-o", UNSANDBOXED, "download", package])
                .current_dir(directory),
        )?;
        let archive = archive(directory, package)?;
        process::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&root))?;
        Ok(root)
    }
}

/// Where to get a series from, and the package's name there.
pub(crate) fn find_kernel(series: &Series, scratch: &Path) -> Outcome<(Apt, String)> {
    if rustix::process::geteuid().is_root()
        && let Err(failure) = apt::refresh()
    {
        // A fresh machine's lists are empty, and old ones name packages that the mirror has
        // replaced. Those of a machine without a network may still do: the packages may be cached.
        report::note(&format!("the package lists stay as they are: {failure}"));
    }
    let system = Apt::system();
    let found = system.newest_kernel(series.name)?;
    if let Some(package) = found {
        return Ok((system, package));
    }
    report::note(&format!(
        "no {} kernel here; asking Debian's {}",
        series.name, series.suite
    ));
    let private = Apt::private(series.suite, &scratch.join(series.suite))?;
    match private.newest_kernel(series.name)? {
        Some(package) => Ok((private, package)),
        None => Err(Failure::new(format!(
            "neither this machine's package lists nor Debian's {} have a {} cloud kernel; \
             as root: apt-get update",
            series.suite, series.name
        ))),
    }
}

/// The mirror that this machine's apt gets Debian itself from.
fn mirror() -> Outcome<String> {
    let mut targets = Command::new("apt-get");
    targets.args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(CODENAME) $(REPO_URI)",
    ]);
    let listing = process::capture(&mut targets)?;
    listing
        .lines()
        .filter_map(|line| line.strip_prefix("Debian "))
        .filter_map(|line| line.split_once(' '))
        .find(|(codename, _)| !codename.contains('-'))
        .map(|(_, mirror)| mirror.to_owned())
        .ok_or_else(|| Failure::new("apt knows no Debian mirror; as root: apt-get update"))
}

/// The one file of `package` in `directory`; a half-fetched one has another ending.
fn archive(directory: &Path, package: &str) -> Outcome<PathBuf> {
    let prefix = format!("{package}_");
    let mut newest: Option<(std::time::SystemTime, PathBuf)> = None;
    for entry in fs::read_dir(directory).context(directory.display())? {
        let entry = entry.context(directory.display())?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&prefix) && name.ends_with(".deb") {
            let written = entry.metadata().and_then(|m| m.modified()).context(&name)?;
            newest = newest.max(Some((written, entry.path())));
        }
    }
    newest
        .map(|(_, path)| path)
        .ok_or_else(|| Failure::new(format!("apt got no {package}")))
}

/// The numbers in a package name, in order: what makes 6.12.9 older than 6.12.10.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_told_by_its_numbers() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.27-cloud-amd64",
        ];
        assert_eq!(
            names.iter().max_by_key(|name| numbers(name)),
            Some(&names[1])
        );
    }
}
