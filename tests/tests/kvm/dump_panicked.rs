//! A guest that has crashed and is kept (`on-panic=pause`) so that a dump of it can be made.

use std::fs::File;
use std::io::Read;

use harness::{obey, skip};
use serde_json::{Value, json};

#[test]
fn a_panicked_guest_is_dumped_and_stays_panicked() {
    if skip::without_kvm() {
        return;
    }
    let launch = obey::launch().control();
    let mut guest = launch.args(["--on-panic", "pause"]).start();
    obey::ready(&mut guest);
    let mut client = guest.client();
    obey::tell(&mut guest, "pvpanic 1 1");
    client.expect_event("GUEST_PANICKED");
    client.expect_event("STOP");
    let path = guest.path("core");
    let protocol = format!("file:{}", path.display());
    client.execute(
        "dump-guest-memory",
        json!({"paging": false, "protocol": protocol}),
    );
    let done = client.expect_event("DUMP_COMPLETED").data;
    assert_eq!(done["result"]["status"], "completed", "{done}");
    assert_eq!(crate::state(&mut guest), "guest-panicked");
    // Nothing was stopped for it, so nothing was told to go on.
    let events = client.session().take_events();
    let moved = events
        .iter()
        .find(|event| ["STOP", "RESUME"].contains(&event.event.as_str()));
    assert!(moved.is_none(), "{moved:?}");
    let mut start = [0; 4];
    File::open(&path).unwrap().read_exact(&mut start).unwrap();
    assert_eq!(&start, b"\x7fELF");
    client.execute("cont", Value::Null);
    assert_eq!(obey::answer(&mut guest).text("written"), "1");
}
