//! Programs that come as Debian packages: which are missing, and installing them where we may.
//!
//! A program is looked for, not a package, so that one from elsewhere does as well.

use std::process::Command;
use std::sync::OnceLock;

use crate::failure::{Failure, Outcome};
use crate::process;

/// A program and the Debian package that has it.
pub(crate) struct Tool {
    /// The file name of the program.
    pub(crate) program: &'static str,
    /// The package.
    pub(crate) package: &'static str,
}

/// A [`Tool`], shortly.
pub(crate) const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// The command line that installs `packages`.
pub(crate) fn install_line(packages: &[&str]) -> String {
    format!(
        "apt-get update && apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    )
}

/// Whether packages can be installed here, if that is wanted.
pub(crate) fn may_install(wanted: bool) -> bool {
    wanted && rustix::process::geteuid().is_root() && process::find("apt-get").is_some()
}

/// The packages of those `tools` that are not on this machine, sorted.
pub(crate) fn lacking<'a>(tools: impl IntoIterator<Item = &'a Tool>) -> Vec<&'static str> {
    let mut packages: Vec<&str> = missing(tools).map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Makes sure of `tools`: installs what is missing if `install` is set and we are root, and says
/// the command to type if not.
pub(crate) fn provide<'a, T>(tools: T, install: bool) -> Outcome<()>
where
    T: IntoIterator<Item = &'a Tool> + Clone,
{
    provide_packages(&lacking(tools.clone()), install)?;
    match missing(tools).next() {
        Some(tool) => Err(Failure::new(format!(
            "no program {} even with the package {}",
            tool.program, tool.package
        ))),
        None => Ok(()),
    }
}

/// The tools that are not on this machine.
fn missing<'a>(tools: impl IntoIterator<Item = &'a Tool>) -> impl Iterator<Item = &'a Tool> {
    tools
        .into_iter()
        .filter(|tool| process::find(tool.program).is_none())
}

/// As [`provide`], for packages that hold no program to look for; an empty list is fine.
pub(crate) fn provide_packages(packages: &[&str], install: bool) -> Outcome<()> {
    let absent: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    if !may_install(install) {
        return Err(Failure::new(format!(
            "{} missing; as root: {}",
            absent.join(", "),
            install_line(&absent)
        )));
    }
    refresh()?;
    process::run(
        apt_get()
            .args(["install", "-y", "--no-install-recommends"])
            .args(&absent),
    )
}

/// Brings the package lists up to date, once per process. Only root can.
pub(crate) fn refresh() -> Outcome<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_none() {
        process::run(apt_get().arg("update"))?;
        let _ = DONE.set(());
    }
    Ok(())
}

/// Whether dpkg has the package installed.
fn is_installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status}", package]);
    process::capture(&mut query).is_ok_and(|status| status == "installed")
}

/// `apt-get` that never asks.
pub(crate) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("-q").env("DEBIAN_FRONTEND", "noninteractive");
    command
}
