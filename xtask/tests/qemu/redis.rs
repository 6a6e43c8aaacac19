//! Redis: a server that forks, writes files, and stops when it is told to.

use crate::road::{on_qemu, size};

#[test]
fn it_serves_its_own_client_and_saves_in_a_fork() {
    let keys = size(1_000, 100_000);
    let script = format!(
        "redis-server --port 6379 --dir /tmp >/tmp/log &
        until redis-cli ping >/dev/null 2>&1; do sleep 0.2; done
        redis-cli set greeting hello
        redis-cli get greeting
        redis-cli debug populate {keys} >/dev/null
        redis-cli bgsave
        until redis-cli info persistence | grep -q 'rdb_bgsave_in_progress:0'; do sleep 0.2; done
        redis-cli info persistence | grep -o 'rdb_last_bgsave_status:[a-z]*'
        redis-cli dbsize
        test -s /tmp/dump.rdb && echo saved
        redis-cli shutdown nosave
        wait; echo ended $?"
    );
    let script = script.replace("--port 6379", "--port 6379 --enable-debug-command local --save ''");
    let outcome = on_qemu(&["redis", "--", "sh", "-c", &script]).run();
    let dbsize = keys + 1;
    outcome.exits(0).prints(&format!(
        "OK\nhello\nBackground saving started\nrdb_last_bgsave_status:ok\n{dbsize}\nsaved\nended 0\n"
    ));
}

#[test]
fn as_the_image_starts_it_sigterm_stops_it_cleanly() {
    let mut running = on_qemu(&["redis"]).start();
    running.wait_for("Ready to accept connections");
    running.signal("TERM");
    let outcome = running.finish();
    outcome.exits(0);
    assert!(outcome.text().contains("bye bye"), "{}", outcome.text());
}
