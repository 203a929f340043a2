//! Kernel modules out of an unpacked Debian kernel package: decompressed, with what they depend
//! on, in the order `insmod` wants them. The package has no `modules.dep` (its installation would
//! make one), so dependencies come from the modules themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Context, Failure, Outcome};
use crate::process;

/// The modules of one kernel.
pub(crate) struct Modules {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

/// A module, ready for `insmod`.
pub(crate) struct Module {
    /// Its name with underscores, as `lsmod` prints it.
    pub(crate) name: String,
    /// The ELF object.
    pub(crate) object: Vec<u8>,
}

impl Modules {
    /// Looks through an unpacked kernel package. Debian moved modules below /usr in release 13.
    pub(crate) fn of_package(root: &Path, release: &str) -> Outcome<Self> {
        let places = ["usr/lib/modules", "lib/modules"].map(|place| root.join(place).join(release));
        let directory = places.iter().find(|place| place.is_dir());
        let missing = || Failure::new(format!("{}: no modules of {release}", root.display()));
        Self::open(directory.ok_or_else(missing)?)
    }

    /// Looks through `lib/modules/RELEASE`.
    fn open(directory: &Path) -> Outcome<Self> {
        let list = directory.join("modules.builtin");
        let builtin = fs::read_to_string(&list).context(list.display())?;
        let builtin = builtin
            .lines()
            .filter_map(|line| name_of(Path::new(line)))
            .collect();
        let mut files = BTreeMap::new();
        collect(&directory.join("kernel"), &mut files)?;
        Ok(Self { files, builtin })
    }

    /// Adds `wanted` to `list`, what it depends on before it, unless it is there already or is
    /// built into the kernel.
    pub(crate) fn add(&self, wanted: &str, list: &mut Vec<Module>) -> Outcome<()> {
        let name = wanted.replace('-', "_");
        if self.builtin.contains(&name) || list.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let path = self
            .files
            .get(&name)
            .ok_or_else(|| Failure::new(format!("the kernel package has no module {wanted}")))?;
        let object = read(path)?;
        for dependency in dependencies(&object) {
            self.add(&dependency, list)?;
        }
        list.push(Module { name, object });
        Ok(())
    }
}

/// `virtio_rng` for `…/virtio-rng.ko.xz`; nothing for a file that is no module.
fn name_of(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Outcome<()> {
    for entry in fs::read_dir(directory).context(directory.display())? {
        let entry = entry.context(directory.display())?;
        let path = entry.path();
        if entry.file_type().context(path.display())?.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// A module's object, decompressed if its file name says so.
fn read(path: &Path) -> Outcome<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).context(path.display()),
    };
    process::capture_bytes(Command::new(program).arg("-dc").arg(path))
}

/// The `depends=` line of a module's `.modinfo`: NUL-terminated `key=value` strings. The key is
/// looked for in the whole object; nothing else in one has the shape of it.
fn dependencies(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = object.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value: Vec<u8> = object
        .iter()
        .skip(at + KEY.len())
        .copied()
        .take_while(|byte| *byte != 0)
        .collect();
    String::from_utf8_lossy(&value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_object() {
        assert_eq!(
            dependencies(b"\x7FELF\0alias=x\0depends=virtio,virtio_ring\0n=1\0"),
            ["virtio", "virtio_ring"]
        );
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"nothing").is_empty());
    }

    #[test]
    fn names_have_underscores_whatever_the_file_is_called() {
        assert_eq!(
            name_of(Path::new("a/virtio-rng.ko.xz")).as_deref(),
            Some("virtio_rng")
        );
        assert_eq!(name_of(Path::new("a/kvm.ko")).as_deref(), Some("kvm"));
        assert_eq!(name_of(Path::new("a/modules.order")), None);
    }

    #[test]
    fn what_a_module_needs_comes_before_it_once() {
        let directory = tempfile_directory("modules");
        let kernel = directory.join("kernel");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(directory.join("modules.builtin"), "kernel/lib/crc32c.ko\n").unwrap();
        fs::write(kernel.join("low.ko"), b"\0depends=crc32c\0").unwrap();
        fs::write(kernel.join("mid.ko"), b"\0depends=low\0").unwrap();
        fs::write(kernel.join("top-most.ko"), b"\0depends=mid,low\0").unwrap();
        let modules = Modules::open(&directory).unwrap();
        let mut list = Vec::new();
        modules.add("top-most", &mut list).unwrap();
        modules.add("mid", &mut list).unwrap();
        let names: Vec<&str> = list.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["low", "mid", "top_most"]);
        assert!(modules.add("absent", &mut list).is_err());
        fs::remove_dir_all(directory).unwrap();
    }

    fn tempfile_directory(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()))
    }
}
