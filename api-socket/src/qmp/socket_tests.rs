use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::client::{Client, ClientError};
use super::super::command::Command;
use super::super::error::{ErrorClass, QmpError};
use super::super::event::{Event, EventLine, Timestamp};
use super::super::session::Reply;
use super::super::types::AddfdInfo;
use super::*;

const SOON: Duration = Duration::from_secs(20);

/// Serves one connection until the client is done: what the VMM's event loop does.
fn serve(mut connection: Connection) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    while !connection.done() {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, connection.wants_read());
        flags.set(PollFlags::OUT, connection.wants_write());
        poll(&mut [PollFd::new(&connection, flags)], None)?;
        connection.receive()?;
        while let Some(request) = connection.session().next_request() {
            let result = match request.command {
                Command::Stop => {
                    let event = EventLine::new(&Event::Stop, Timestamp::UNKNOWN);
                    connection.session().event(&event);
                    Ok(Reply::empty())
                }
                Command::AddFd(_) => match request.fds.first() {
                    Some(fd) => Ok(Reply::of(&AddfdInfo {
                        fdset_id: 1,
                        // The inode says which descriptor it was.
                        fd: i64::try_from(rustix::fs::fstat(fd)?.st_ino).unwrap(),
                    })),
                    None => Err(QmpError::no_fd_supplied()),
                },
                Command::HumanMonitorCommand(arguments) => Ok(Reply::of(&arguments.command_line)),
                _ => Err(QmpError::no_balloon()),
            };
            connection.session().reply(request.token, result);
        }
        connection.transmit()?;
    }
    Ok(())
}

/// A client whose server is a thread of the test.
fn served() -> (Client, std::thread::JoinHandle<io::Result<()>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let connection = Connection::new(theirs.into()).unwrap();
    let server = std::thread::spawn(move || serve(connection));
    (Client::from_socket(ours.into(), SOON).unwrap(), server)
}

#[test]
fn a_client_gets_returns_errors_and_events() {
    let (mut client, server) = served();
    assert_eq!(client.greeting()["QMP"]["capabilities"], json!(["oob"]));
    assert_eq!(client.execute("stop", Value::Null).unwrap(), json!({}));
    assert_eq!(
        client.take_events().len(),
        1,
        "the event came first and was kept"
    );
    client.execute("stop", json!({})).unwrap();
    assert_eq!(
        client.wait_for_event("STOP", SOON).unwrap().unwrap().data,
        Value::Null
    );
    assert_eq!(client.next_event(Duration::ZERO).unwrap(), None);
    match client.execute("query-balloon", Value::Null) {
        Err(ClientError::Command(error)) => assert_eq!(error.class, ErrorClass::DeviceNotActive),
        other => panic!("{other:?}"),
    }
    client.finish().unwrap();
    server.join().unwrap().unwrap();
    assert!(matches!(
        client.next_message(SOON),
        Err(ClientError::Closed)
    ));
}

#[test]
fn long_lines_pass_both_ways() {
    let (mut client, _server) = served();
    let text = "x\u{e9}".repeat(100_000);
    let arguments = json!({"command-line": text});
    let returned = client.execute("human-monitor-command", arguments).unwrap();
    assert_eq!(returned, json!(text));
    // Too long to be read: the error has no id, and is this command's all the same.
    let arguments = json!({"command-line": "x".repeat(2 << 20)});
    let error = client
        .execute("human-monitor-command", arguments)
        .unwrap_err();
    assert_eq!(error.to_string(), "JSON token size limit exceeded");
    assert_eq!(client.execute("stop", Value::Null).unwrap(), json!({}));
}

#[test]
fn descriptors_arrive_either_way() {
    let (mut client, _server) = served();
    for on_a_space in [true, false] {
        let file = tempfile::tempfile().unwrap();
        let fds = [file.as_fd()];
        let got = if on_a_space {
            client.send_fds(&fds).unwrap();
            client.execute("add-fd", json!({"opaque": "x"}))
        } else {
            client.execute_with_fds("add-fd", json!({}), &fds)
        };
        assert_eq!(got.unwrap()["fd"], file.metadata().unwrap().ino());
    }
    let error = client.execute("add-fd", json!({})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "No file descriptor supplied via SCM_RIGHTS"
    );
    let file = tempfile::tempfile().unwrap();
    let many = vec![file.as_fd(); MAX_FDS + 1];
    assert!(client.send_fds(&many).is_err());
}

#[test]
fn the_socket_is_the_owners_alone_and_answers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let listener = Listener::bind(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert!(listener.accept().unwrap().is_none());
    // Two clients at once, the later one first.
    let _first = UnixStream::connect(&path).unwrap();
    let waiting = listener.accept().unwrap().unwrap();
    let server = {
        let path = path.clone();
        std::thread::spawn(move || Client::connect(&path, SOON).map(drop))
    };
    let connection = loop {
        if let Some(connection) = listener.accept().unwrap() {
            break connection;
        }
        std::thread::yield_now();
    };
    serve(connection).unwrap();
    server.join().unwrap().unwrap();
    drop(waiting);
}

#[test]
fn the_mode_is_there_before_the_name() {
    // What `bind` relies on: the inode takes the mode the socket had.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let socket = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o400)).unwrap();
    net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o400);
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let first = Listener::bind(&path).unwrap();
    assert!(matches!(
        Listener::bind(&path),
        Err(ListenError::InUse { .. })
    ));
    assert!(path.exists());
    drop(first);
    let _second = Listener::bind(&path).unwrap();
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn only_one_of_many_replaces_a_dead_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    for _ in 0..20 {
        drop(Listener::bind(&path).unwrap());
        let start = std::sync::Barrier::new(4);
        let (start, path) = (&start, &path);
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(move || {
                        start.wait();
                        Listener::bind(path)
                    })
                })
                .collect();
            racers
                .into_iter()
                .map(|racer| racer.join().unwrap())
                .collect()
        });
        assert_eq!(
            outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
            1,
            "{outcomes:?}"
        );
        assert!(
            UnixStream::connect(path).is_ok(),
            "the winner is who answers"
        );
    }
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    assert!(matches!(
        Listener::bind(&path),
        Err(ListenError::NotASocket { .. })
    ));
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(
        Listener::bind(&link),
        Err(ListenError::NotASocket { .. })
    ));
    let missing = directory.path().join("no/such/directory");
    assert!(matches!(
        Listener::bind(&missing),
        Err(ListenError::System { .. })
    ));
    let long = directory.path().join("x".repeat(200));
    assert!(matches!(
        Listener::bind(&long),
        Err(ListenError::Path { .. })
    ));
}

#[test]
fn only_a_listening_unix_stream_socket_is_inherited() {
    let directory = tempfile::tempdir().unwrap();
    let listening = UnixListener::bind(directory.path().join("a")).unwrap();
    assert!(
        Listener::inherit(listening.into())
            .unwrap()
            .accept()
            .unwrap()
            .is_none()
    );
    let (stream, _other) = UnixStream::pair().unwrap();
    let datagram = UnixDatagram::unbound().unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = tempfile::tempfile().unwrap();
    let wrong: [OwnedFd; 4] = [stream.into(), datagram.into(), tcp.into(), file.into()];
    for socket in wrong {
        assert!(matches!(
            Listener::inherit(socket),
            Err(ListenError::NotListening)
        ));
    }
}

#[test]
fn a_client_gives_up_on_what_is_not_qmp() {
    use std::io::Write;
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"SSH-2.0-\x1b[2J").unwrap();
    theirs.write_all(&[b'x'; 10_000]).unwrap();
    theirs.write_all(b"\r\n").unwrap();
    match Client::from_socket(ours.into(), SOON) {
        // Short, and nothing that a terminal obeys.
        Err(ClientError::Protocol(text)) => {
            assert!(text.starts_with("SSH-2.0-\\u{1b}[2Jxxx"), "{text}");
            assert!(text.ends_with("xxx...") && text.len() < 100, "{text}");
        }
        other => panic!("{other:?}"),
    }
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"{\"hello\":1}\r\n").unwrap();
    assert!(matches!(
        Client::from_socket(ours.into(), SOON),
        Err(ClientError::Protocol(_))
    ));
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(matches!(
        Client::from_socket(ours.into(), SOON),
        Err(ClientError::Closed)
    ));
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let short = Duration::from_millis(1);
    assert!(matches!(
        Client::from_socket(ours.into(), short),
        Err(ClientError::NoGreeting { limit }) if limit == short
    ));
}

#[test]
fn a_client_says_what_may_be_wrong_with_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("file"), "").unwrap();
    drop(UnixListener::bind(at("dead")).unwrap());
    let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
    for (name, remedy) in [
        ("absent", "is the guest running?"),
        ("file", "not a control socket"),
        ("", "not a control socket"),
        ("dead", "start the guest again"),
        ("datagram", "not a control socket"),
        (&"x".repeat(200), "107 bytes"),
    ] {
        let error = Client::connect(&at(name), SOON).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ClientError::Connect { .. }), "{text}");
        assert!(text.contains(name) && text.contains(remedy), "{text}");
    }
}

/// Each wants to be rid of its own before it takes the other's.
#[test]
fn a_server_that_answers_before_it_reads_on_is_heard() {
    use std::io::{Read, Write};
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || {
        theirs
            .write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n")
            .unwrap();
        let mut line = [0; 64];
        let length = theirs.read(&mut line).unwrap();
        assert!(line[..length].ends_with(b"\n"));
        theirs
            .write_all(b"{\"return\": {}, \"id\": \"thimble-0\"}\r\n")
            .unwrap();
        // More than a socket holds.
        for _ in 0..40_000 {
            theirs
                .write_all(b"{\"return\": \"an answer\"}\r\n")
                .unwrap();
        }
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).unwrap();
        sent.len()
    });
    let mut client = Client::from_socket(ours.into(), SOON).unwrap();
    client.send_raw(&[b' '; 1 << 20]).unwrap();
    for _ in 0..40_000 {
        let message = client.next_message(SOON).unwrap().unwrap();
        assert_eq!(message, json!({"return": "an answer"}));
    }
    drop(client);
    assert_eq!(server.join().unwrap(), 1 << 20);
}
