//! Descriptors over the control socket: on the command's message, on a space before it, and in
//! sets that stand for files.

use std::fs::File;
use std::os::fd::AsFd;

use harness::skip;
use serde_json::{Value, json};

use crate::run_state::ready;

#[test]
fn getfd_takes_what_came_with_it_or_just_before() {
    if skip::without_kvm() {
        return;
    }
    let (_guest, mut client) = ready();
    let file = File::open("/dev/null").unwrap();
    let none = client
        .try_execute("getfd", json!({"fdname": "a"}))
        .unwrap_err();
    assert!(none.desc.contains("No file descriptor"), "{}", none.desc);

    client.session().send_fds(&[file.as_fd()]).unwrap();
    client.execute("getfd", json!({"fdname": "before"}));
    let session = client.session();
    let taken = session.execute_with_fds("getfd", json!({"fdname": "with"}), &[file.as_fd()]);
    assert_eq!(taken.unwrap(), json!({}));
    for name in ["before", "with"] {
        client.execute("closefd", json!({"fdname": name}));
        let gone = client
            .try_execute("closefd", json!({"fdname": name}))
            .unwrap_err();
        assert!(gone.desc.contains(name), "{}", gone.desc);
    }
    // A command that is refused takes nothing: the descriptor is there for the next.
    client.session().send_fds(&[file.as_fd()]).unwrap();
    client.try_execute("getfd", json!({})).unwrap_err();
    client.execute("getfd", json!({"fdname": "kept"}));
    // Nor does one that takes none.
    client.session().send_fds(&[file.as_fd()]).unwrap();
    client.execute("query-status", Value::Null);
    client.execute("getfd", json!({"fdname": "later"}));
    let digit = client
        .session()
        .execute_with_fds("getfd", json!({"fdname": "7"}), &[file.as_fd()]);
    assert!(digit.is_err());
}

#[test]
fn a_set_of_descriptors_stands_for_a_file() {
    if skip::without_kvm() {
        return;
    }
    let (guest, mut client) = ready();
    let path = guest.path("memory.bin");
    let file = File::create(&path).unwrap();
    let session = client.session();
    let added = session
        .execute_with_fds("add-fd", json!({"opaque": "note"}), &[file.as_fd()])
        .unwrap();
    let set = added["fdset-id"].as_i64().unwrap();
    let sets = client.execute("query-fdsets", Value::Null);
    assert_eq!(
        sets,
        json!([{"fdset-id": set, "fds": [{"fd": added["fd"], "opaque": "note"}]}])
    );
    client.execute(
        "pmemsave",
        json!({"val": 0, "size": 65536, "filename": format!("/dev/fdset/{set}")}),
    );
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 65536);

    client.execute("remove-fd", json!({"fdset-id": set}));
    assert_eq!(client.execute("query-fdsets", Value::Null), json!([]));
    let refusal = client
        .try_execute("remove-fd", json!({"fdset-id": set}))
        .unwrap_err();
    assert!(refusal.desc.contains("not found"), "{}", refusal.desc);
    let refusal = client
        .try_execute(
            "pmemsave",
            json!({"val": 0, "size": 1, "filename": format!("/dev/fdset/{set}")}),
        )
        .unwrap_err();
    assert!(refusal.desc.contains("fdset"), "{}", refusal.desc);
}
