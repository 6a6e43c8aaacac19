//! A client that is not ours over the Unix socket of the virtio-serial port.

use std::time::Duration;

use ttrpc::Client;

use crate::guest::guest;
use crate::road::stranger;

#[test]
fn the_ttrpc_crate_drives_a_containers_whole_life() {
    let mut guest = guest();
    guest.hang_up();
    // What comes at the moment when one client of a serial port follows another may go unanswered: then it is said again.
    let connect = || {
        let client = Client::connect(&format!("unix://{}", guest.socket.display())).expect("it connects");
        let answer =
            stranger::call_within(Duration::from_secs(5), &client, "grpc.Health", "Check", &[]).ok()?;
        assert_eq!(answer, [1 << 3, 1], "SERVING");
        Some(client)
    };
    let client = (0..20).find_map(|_| connect()).expect("it answers");
    stranger::whole_life(&client, "foreign");
}
