//! The launcher stage: every file, socket and terminal is opened here, from a checked
//! configuration. What is built afterwards holds descriptors and resolves no path.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use api_socket::config::{
    Checked, CheckedControl, CheckedDisk, CheckedNet, CheckedNetBackend, CheckedSerial,
    CheckedVsock,
};
use api_socket::qmp::socket::{ListenError, Listener};
use devices::disk::SECTOR_SIZE;
use devices::disk::lock::{self, Access, LockError};
use devices::disk::open::OpenError as DiskOpenError;
use devices::net::NetBackend;
use devices::net::open::{self as tap, OpenError as TapError};
use devices::vsock::VsockBackend;
use devices::vsock::directory::DirectoryConnector;
use firmware::cmdline;
use firmware::open::{BootFile, OpenError as BootOpenError, open as open_boot_file};
use rustix::process::Resource;

use crate::attach::blk::cache_mode;
use crate::boot_source::{BootSource, KernelSource};
use crate::made_file::{FileId, MadeFile};

/// What a qcow or qcow2 image begins with (QEMU's docs/interop/qcow2).
const QCOW_MAGIC: [u8; 4] = *b"QFI\xfb";

/// A disk image, opened and locked.
pub struct OpenDisk {
    /// As configured.
    pub config: CheckedDisk,
    /// The image.
    pub file: File,
    /// The image once more, with the locks on it.
    pub lock: File,
}

/// The host's side of a vsock device.
pub struct OpenVsock {
    /// As configured.
    pub config: CheckedVsock,
    /// What listens, and what connects.
    pub backend: VsockBackend,
}

/// A network card's backend, opened.
pub struct OpenNet {
    /// As configured.
    pub config: CheckedNet,
    /// What is behind it.
    pub backend: Box<dyn NetBackend>,
    /// The interface's name.
    pub interface: String,
}

/// Descriptors that the process was started with for some use.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Control sockets, in the configuration's order.
    pub control: Vec<Listener>,
    /// Taps with their numbers, those of each card that has any, in the configuration's order.
    pub taps: Vec<Vec<(RawFd, OwnedFd)>>,
}

/// Why something the configuration names cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Kernel or initrd.
    #[error(transparent)]
    BootFile(#[from] BootOpenError),
    /// A disk.
    #[error("{id}")]
    Disk {
        /// The device's id.
        id: String,
        /// Why.
        #[source]
        source: DiskOpenError,
    },
    /// A disk that somebody else uses.
    #[error("{id}: {}", path.display())]
    Locked {
        /// The device's id.
        id: String,
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: LockError,
    },
    /// A network card.
    #[error("{id}")]
    Net {
        /// The device's id.
        id: String,
        /// Why.
        #[source]
        source: TapError,
    },
    /// An inherited tap that is not there.
    #[error("{id}: fd={fd}: the descriptor is not open; start thimble with it inherited")]
    InheritedTap {
        /// The device's id.
        id: String,
        /// Its number.
        fd: RawFd,
    },
    /// The socket of a vsock device.
    #[error("{id}")]
    Vsock {
        /// The device's id.
        id: String,
        /// Why.
        #[source]
        source: ListenError,
    },
    /// The directory of a vsock device's sockets.
    #[error("{id}: cannot open the directory of {}", path.display())]
    VsockDirectory {
        /// The device's id.
        id: String,
        /// The device's path.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// A control socket.
    #[error("control socket")]
    Control(#[from] ListenError),
    /// An inherited descriptor that is no control socket.
    #[error("control socket fd={fd}")]
    NotControl {
        /// Its number.
        fd: RawFd,
        /// Why.
        #[source]
        source: ListenError,
    },
    /// An inherited control socket that is not there.
    #[error("control socket fd={fd}: the descriptor is not open; start thimble with it inherited")]
    InheritedControl {
        /// Its number.
        fd: RawFd,
    },
    /// A file to be written to is one that is to be read.
    #[error(
        "{key}: {} is the same file as {}, and would be overwritten; give it a path of its own",
        output.display(),
        input.display()
    )]
    Overwrites {
        /// The configuration's key.
        key: &'static str,
        /// The path to write to.
        output: PathBuf,
        /// The path of a kernel, initrd or disk.
        input: PathBuf,
    },
    /// The log file is a disk.
    #[error("log.file: {} is {what}; choose another path", path.display())]
    LogToDisk {
        /// Its path.
        path: PathBuf,
        /// A block device, or an image in use.
        what: &'static str,
    },
    /// ENXIO: the log file is a FIFO without a reader, or a socket.
    #[error(
        "nobody is at the other end of the log file {}: start the reader of that FIFO first, or \
         choose a file",
        path.display()
    )]
    LogToNobody {
        /// Its path.
        path: PathBuf,
    },
    /// The log file.
    #[error("cannot open the log file {}", path.display())]
    Log {
        /// Its path.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
}

/// Opens what the guest boots.
///
/// # Errors
/// [`LaunchError`].
pub fn boot_source(config: &Checked) -> Result<BootSource, LaunchError> {
    let Some(kernel) = &config.kernel else {
        return Ok(BootSource {
            kernel: KernelSource::Builtin,
            initrd: None,
            cmdline: String::new(),
        });
    };
    let file = open_boot_file(BootFile::Kernel, &kernel.path)?;
    let initrd = kernel.initrd.as_deref();
    let initrd = initrd
        .map(|path| open_boot_file(BootFile::Initrd, path))
        .transpose()?;
    let cmdline = if kernel.cmdline.is_empty() {
        cmdline::DEFAULT
    } else {
        &kernel.cmdline
    };
    Ok(BootSource {
        kernel: KernelSource::File(file),
        initrd,
        cmdline: cmdline.to_owned(),
    })
}

/// Opens and locks the disks.
///
/// # Errors
/// [`LaunchError`].
pub fn disks(config: &Checked) -> Result<Vec<OpenDisk>, LaunchError> {
    config.disks.iter().map(open_disk).collect()
}

fn open_disk(config: &CheckedDisk) -> Result<OpenDisk, LaunchError> {
    let id = config.id.clone();
    let file = devices::disk::open::open(&config.path, config.readonly, cache_mode(config.cache))
        .map_err(|source| LaunchError::Disk {
        id: id.clone(),
        source,
    })?;
    let access = if config.readonly {
        Access::Read
    } else {
        Access::Write
    };
    let lock = for_locks(&file, config.readonly)
        .map_err(LockError::Host)
        .and_then(|open| lock::lock(&open, access).map(|()| open))
        .map_err(|source| LaunchError::Locked {
            id,
            path: config.path.clone(),
            source,
        })?;
    warn_about(config, &file);
    Ok(OpenDisk {
        config: config.clone(),
        file,
        lock,
    })
}

/// The image opened once more, to be locked. Locks go with the open file they were taken on, and
/// the one that is read and written is also known to an io_uring, which gives it up some time after
/// a killed process has gone.
fn for_locks(file: &File, readonly: bool) -> io::Result<File> {
    let same = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = File::options().read(true).write(!readonly).open(same);
    // Without /proc, or where the path's rights have changed: the locks are as good, but may last
    // for that moment.
    again.or_else(|_| file.try_clone())
}

/// Says what of an image is probably not as the user thinks.
fn warn_about(config: &CheckedDisk, file: &File) {
    let (id, path) = (&config.id, config.path.display());
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let partial = size % SECTOR_SIZE;
    if partial != 0 {
        log::warn!(
            "{id}: {path}: the last {partial} bytes are less than a sector and are left out; pad \
             the image to a multiple of {SECTOR_SIZE}"
        );
    }
    // Only a warning: what is in a raw image is the guest's to choose.
    let mut start = [0; 4];
    if file.read_exact_at(&mut start, 0).is_ok() && start == QCOW_MAGIC {
        log::warn!(
            "{id}: {path}: looks like a qcow2 image, and is used as a raw one; make a raw one with \
             qemu-img convert -O raw"
        );
    }
}

/// Descriptors a vsock device may want: one for each of its connections, and room for the rest of
/// the process.
const VSOCK_DESCRIPTORS: u64 = 8192;

/// Listens for a vsock device; the socket is noted in `files`.
///
/// # Errors
/// [`LaunchError::Vsock`], [`LaunchError::VsockDirectory`].
pub fn vsock(config: &Checked, files: &mut SocketFiles) -> Result<Option<OpenVsock>, LaunchError> {
    let Some(config) = &config.vsock else {
        return Ok(None);
    };
    let CheckedVsock { id, path, .. } = config;
    let connector =
        DirectoryConnector::open(path).map_err(|source| LaunchError::VsockDirectory {
            id: id.clone(),
            path: path.clone(),
            source,
        })?;
    let listener = Listener::bind(path).map_err(|source| LaunchError::Vsock {
        id: id.clone(),
        source,
    })?;
    files.add(path);
    raise_descriptor_limit(id);
    Ok(Some(OpenVsock {
        config: config.clone(),
        backend: VsockBackend {
            listener: listener.into(),
            connector: Box::new(connector),
        },
    }))
}

/// The usual limit of 1,024 is meant for programs that use `select`; it may be raised by anyone.
fn raise_descriptor_limit(id: &str) {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = limit
        .maximum
        .map_or(VSOCK_DESCRIPTORS, |most| most.min(VSOCK_DESCRIPTORS));
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        if let Err(errno) = rustix::process::setrlimit(Resource::Nofile, limit) {
            log::debug!("{id}: the limit of open files stays as it is: {errno}");
        }
    }
}

/// Control sockets that listen, and the paths to remove at the end.
#[derive(Debug, Default)]
pub struct ControlSockets {
    /// The sockets.
    pub listeners: Vec<Listener>,
    /// Removes the files that were made for them.
    pub files: SocketFiles,
}

/// Sockets that this process made; removed when it is dropped.
#[derive(Debug, Default)]
pub struct SocketFiles(Vec<MadeFile>);

impl SocketFiles {
    /// Has the socket at `path`, which this process has just made, removed.
    pub fn add(&mut self, path: &Path) {
        // Where even a look at it fails it is gone, or was never ours.
        self.0.extend(MadeFile::note(path).ok());
    }
}

/// Opens the network cards' taps; `inherited` are those that are open already.
///
/// # Errors
/// [`LaunchError::Net`].
pub fn nets(
    config: &Checked,
    inherited: Vec<Vec<(RawFd, OwnedFd)>>,
) -> Result<Vec<OpenNet>, LaunchError> {
    let mut inherited = inherited.into_iter();
    let open = |net: &CheckedNet| {
        let id = &net.id;
        let opened = match &net.backend {
            CheckedNetBackend::Tap { name, queues } => tap::by_name(name, *queues),
            CheckedNetBackend::Fds(_) => tap::inherited(inherited.next().unwrap_or_default()),
        };
        let opened = opened.map_err(|source| LaunchError::Net {
            id: id.clone(),
            source,
        })?;
        let name = opened.name;
        if opened.created {
            log::warn!(
                "{id}: made the interface {name}, which goes when this process ends; ip link set \
                 {name} up lets frames pass"
            );
        } else if !opened.up {
            log::warn!(
                "{id}: the interface {name} is down, and frames are lost; ip link set {name} up"
            );
        }
        Ok(OpenNet {
            config: net.clone(),
            backend: Box::new(opened.backend),
            interface: name,
        })
    };
    config.nets.iter().map(open).collect()
}

/// Takes the inherited descriptors over. To be called before this process opens anything: a number
/// that was not inherited would soon name something of ours.
///
/// # Errors
/// [`LaunchError::InheritedControl`], [`LaunchError::NotControl`], [`LaunchError::InheritedTap`].
pub fn inherited(config: &Checked) -> Result<Inherited, LaunchError> {
    Ok(Inherited {
        control: inherited_control(config)?,
        taps: inherited_taps(config)?,
    })
}

fn inherited_taps(config: &Checked) -> Result<Vec<Vec<(RawFd, OwnedFd)>>, LaunchError> {
    let cards = config.nets.iter().filter_map(|net| match &net.backend {
        CheckedNetBackend::Tap { .. } => None,
        CheckedNetBackend::Fds(fds) => Some((&net.id, fds)),
    });
    cards
        .map(|(id, fds)| {
            let take = |&fd: &RawFd| {
                let id = id.clone();
                let tap = take_inherited(fd).ok_or(LaunchError::InheritedTap { id, fd })?;
                Ok((fd, tap))
            };
            fds.iter().map(take).collect()
        })
        .collect()
}

fn inherited_control(config: &Checked) -> Result<Vec<Listener>, LaunchError> {
    let numbers = config.control.iter().filter_map(|control| match control {
        CheckedControl::Path(_) => None,
        CheckedControl::Fd(fd) => Some(*fd),
    });
    numbers
        .map(|fd| {
            let socket = take_inherited(fd).ok_or(LaunchError::InheritedControl { fd })?;
            Listener::inherit(socket).map_err(|source| LaunchError::NotControl { fd, source })
        })
        .collect()
}

/// Listens on the control sockets; `inherited` are those that exist already.
///
/// # Errors
/// [`LaunchError`].
pub fn control(config: &Checked, inherited: Vec<Listener>) -> Result<ControlSockets, LaunchError> {
    let mut sockets = ControlSockets::default();
    let mut inherited = inherited.into_iter();
    for control in &config.control {
        match control {
            CheckedControl::Path(path) => {
                sockets.listeners.push(Listener::bind(path)?);
                sockets.files.add(path);
            }
            CheckedControl::Fd(_) => sockets.listeners.extend(inherited.next()),
        }
    }
    Ok(sockets)
}

/// Takes an inherited descriptor over, if it is open.
#[expect(
    unsafe_code,
    reason = "a number on the command line becomes a descriptor"
)]
fn take_inherited(fd: RawFd) -> Option<OwnedFd> {
    if !Path::new("/proc/self/fd").join(fd.to_string()).exists() {
        return None;
    }
    // SAFETY: the descriptor is open, and nothing in this process has it: it was inherited, since
    // nothing has been opened yet, and each number is named once in a checked configuration.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Refuses to write over what the guest is made of. By their paths the files differ, or the
/// configuration would have been refused; links may lead from one to the other. To be called before
/// any of them is written to.
///
/// # Errors
/// [`LaunchError::Overwrites`].
pub fn spare_inputs(config: &Checked) -> Result<(), LaunchError> {
    let id = |path: &Path| path.metadata().ok().map(|metadata| FileId::from(&metadata));
    let serial = match &config.serial {
        CheckedSerial::File(path) => Some(path),
        _ => None,
    };
    let outputs = [
        ("serial.path", serial),
        ("log.file", config.log.file.as_ref()),
        ("pidfile", config.pidfile.as_ref()),
    ];
    let kernel = config.kernel.as_ref();
    let inputs = kernel
        .map(|kernel| kernel.path.as_path())
        .into_iter()
        .chain(kernel.and_then(|kernel| kernel.initrd.as_deref()))
        .chain(config.disks.iter().map(|disk| disk.path.as_path()));
    for (key, output) in outputs {
        let Some(output) = output else { continue };
        // What is not there yet is none of them.
        let Some(output_id) = id(output) else {
            continue;
        };
        if let Some(input) = inputs.clone().find(|input| id(input) == Some(output_id)) {
            return Err(LaunchError::Overwrites {
                key,
                output: output.clone(),
                input: input.to_owned(),
            });
        }
    }
    Ok(())
}

/// Opens the log file for appending.
///
/// # Errors
/// [`LaunchError::Log`], [`LaunchError::LogToDisk`], [`LaunchError::LogToNobody`].
pub fn log_file(config: &Checked) -> Result<Option<File>, LaunchError> {
    let Some(path) = &config.log.file else {
        return Ok(None);
    };
    let failed = |source: io::Error| {
        let path = path.clone();
        if source.raw_os_error() == Some(libc::ENXIO) {
            LaunchError::LogToNobody { path }
        } else {
            LaunchError::Log { path, source }
        }
    };
    let disk = |what| LaunchError::LogToDisk {
        path: path.clone(),
        what,
    };
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    if file
        .metadata()
        .map_err(failed)?
        .file_type()
        .is_block_device()
    {
        return Err(disk("a block device"));
    }
    // Where the host knows no such locks, nobody could have taken any.
    if let Err(LockError::Busy { .. }) = lock::check_unused(&file) {
        return Err(disk("the image of a disk in use"));
    }
    Ok(Some(file))
}
