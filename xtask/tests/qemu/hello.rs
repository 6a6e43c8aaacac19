//! The shortest way: one command, its streams and its exit status.

use crate::road::{on_qemu, size};

#[test]
fn hello_says_hi_and_nothing_else() {
    on_qemu(&["hello", "--", "echo", "hi"]).run().exits(0).prints("hi\n");
}

#[test]
fn the_exit_status_is_the_commands_own() {
    on_qemu(&["hello", "--", "sh", "-c", "exit 7"]).run().exits(7).prints("");
}

#[test]
fn death_by_signal_is_128_and_its_number() {
    on_qemu(&["hello", "--", "sh", "-c", "kill -9 $$"]).run().exits(137);
}

#[test]
fn stdin_reaches_the_command_and_ends() {
    on_qemu(&["hello", "-i", "--", "cat"]).input("abc").run().exits(0).prints("abc");
}

#[test]
fn without_dash_i_stdin_is_empty() {
    on_qemu(&["hello", "--", "cat"]).input("abc").run().exits(0).prints("");
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let outcome = on_qemu(&["hello", "--", "sh", "-c", "echo out; echo err >&2"]).run();
    outcome.exits(0).prints("out\n");
    assert!(outcome.stderr.lines().any(|line| line == "err"), "{}", outcome.stderr);
}

#[test]
fn a_stream_through_the_guest_arrives_bit_for_bit() {
    let bytes = noise(size(4 << 20, 100 << 20));
    let outcome = on_qemu(&["hello", "-i", "--", "cat"]).input(bytes.clone()).run();
    outcome.exits(0);
    assert_eq!(outcome.stdout.len(), bytes.len());
    assert!(outcome.stdout == bytes, "the bytes differ");
}

#[test]
fn signals_reach_the_command() {
    let mut running = on_qemu(&[
        "hello",
        "--",
        "sh",
        "-c",
        "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 1; done",
    ])
    .start();
    running.wait_for("ready\n");
    running.signal("TERM");
    running.finish().exits(3).prints("ready\nterm\n");
}

#[test]
fn a_command_that_ignores_everything_dies_of_kill_alone() {
    let mut running = on_qemu(&["hello", "--", "sh", "-c", "echo $$; exec sleep 1000"]).start();
    running.wait_for("\n");
    let before = qemus();
    running.signal("KILL");
    let outcome = running.finish();
    assert_eq!(outcome.status.code(), None, "xtask itself was killed");
    // The kernel ends QEMU with its parent; it may need a moment to let go of the guest's memory.
    let gone = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        qemus().len() < before.len()
    });
    assert!(gone, "QEMU outlives xtask: {before:?}");
}

/// The processes that are QEMUs.
fn qemus() -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.starts_with("qemu-system"))
        })
        .collect()
}

#[test]
fn options_are_taken_on_both_sides_of_the_image() {
    let command = ["sh", "-c", "echo $A $B; hostname; pwd; id -u; id -g; nproc"];
    let options = [
        "-e",
        "A=1",
        "hello",
        "-e",
        "B=2",
        "--hostname",
        "ship",
        "-w",
        "/tmp",
        "-u",
        "7:8",
        "--cpus",
        "2",
        "--",
    ];
    let outcome = on_qemu(&[&options[..], &command[..]].concat()).run();
    outcome.exits(0).prints("1 2\nship\n/tmp\n7\n8\n2\n");
}

#[test]
fn a_read_only_container_cannot_write_and_another_can() {
    on_qemu(&["hello", "--read-only", "--", "sh", "-c", "echo x > /new || echo refused"])
        .run()
        .exits(0)
        .prints("refused\n");
    for overlay in ["disk", "tmpfs"] {
        let outcome =
            on_qemu(&["hello", "--overlay", overlay, "--", "sh", "-c", "echo x > /bin/new && cat /bin/new"])
                .run();
        outcome.exits(0).prints("x\n");
    }
}

#[test]
fn a_terminal_is_a_terminal_inside() {
    let outcome = on_qemu(&["hello", "-t", "--", "sh", "-c", "test -t 0 && test -t 1 && tty"]).run();
    outcome.exits(0);
    assert!(
        outcome.text().starts_with("/dev/pts/") || outcome.text().starts_with("/dev/console"),
        "{}",
        outcome.text()
    );
}

/// Bytes without a pattern (xorshift64*), the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
