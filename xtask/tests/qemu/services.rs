//! Services as people deploy them: nginx, PostgreSQL, Node.js.

use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::makes::made;
use crate::road::web::{ask, free_port};
use crate::road::{on_qemu, size};

#[test]
fn nginx_serves_logs_to_the_container_s_output_and_stops_when_told() {
    let script = "mkdir /tmp/site && chmod 755 /tmp/site && echo 'hello over http' >/tmp/site/page
        printf 'server { listen 8080; root /tmp/site; }' >/etc/nginx/conf.d/site.conf
        (until busybox wget -q -O - http://127.0.0.1:8080/page; do sleep 0.2; done
         busybox wget -q -O - http://127.0.0.1/ | grep -o 'Welcome to nginx' | head -1; kill -QUIT $$) &
        exec nginx -g 'daemon off;'";
    let outcome = made("asked", &[], &["sh", "-c", script]);
    outcome.exits(0);
    for told in ["hello over http\n", "Welcome to nginx\n", "\"GET /page HTTP/1.1\" 200"] {
        assert!(outcome.text().contains(told), "no {told:?} in {}", outcome.text());
    }
    assert!(outcome.stderr.contains("gracefully shutting down"), "{}", outcome.stderr);
}

#[test]
fn a_published_port_leads_to_the_guest_from_outside() {
    if Command::new("passt").arg("--version").output().is_err() {
        println!("left out: passt, which the network without privileges needs, is not in the search path");
        return;
    }
    // The second of two ports in a row that lead to two in a row.
    let (before, port) = std::iter::repeat_with(free_port)
        .filter_map(|port| Some((port, port.checked_add(1)?)))
        .find(|(_, port)| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("two free ports");
    let published = format!("127.0.0.1:{before}-{port}:79-80");
    let mut running = on_qemu(&["nginx", "--network", "user", "-p", &published]).start();
    let began = Instant::now();
    let answer = loop {
        match ask(port, "/") {
            Ok(answer) if !answer.is_empty() => break answer,
            _ => assert!(began.elapsed() < Duration::from_secs(120), "nobody answers on port {port}"),
        }
        thread::sleep(Duration::from_millis(200));
    };
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("Welcome to nginx"), "{answer}");
    running.wait_for("\"GET / HTTP/1.0\" 200");
    running.signal("TERM");
    running.finish().exits(0);
}

#[test]
fn postgres_makes_its_cluster_serves_with_a_password_and_keeps_what_it_was_given() {
    let rows = size(1_000, 1_000_000);
    let script = format!(
        "serve postgres >/tmp/log 2>&1 & server=$!
        until pg_isready -q -h 127.0.0.1 -d app; do sleep 0.2; kill -0 $server || {{ cat /tmp/log; exit 1; }}; done
        psql -qAt -h 127.0.0.1 -c 'create table t as select n from generate_series(1, {rows}) n' -c 'select sum(n) from t'
        PGPASSWORD=wrong psql -h 127.0.0.1 -c 'select 1' 2>&1 | grep -o 'password authentication failed'
        kill -INT $server; wait $server; echo ended $?
        serve postgres >/tmp/log 2>&1 & server=$!
        until pg_isready -q -h 127.0.0.1 -d app; do sleep 0.2; done
        psql -qAt -h 127.0.0.1 -c 'select count(*) from t'
        kill -INT $server; wait $server"
    );
    let variables = ["-e", "POSTGRES_USER=app", "-e", "POSTGRES_PASSWORD=secret", "-e", "PGUSER=app"];
    let more = ["-e", "PGPASSWORD=secret", "--entrypoint", "", "--", "sh", "-c", &script];
    let outcome = on_qemu(&[&["postgres"], &variables[..], &more[..]].concat()).run();
    let sum = rows * (rows + 1) / 2;
    outcome.exits(0).prints(&format!("{sum}\npassword authentication failed\nended 0\n{rows}\n"));
}

#[test]
fn node_serves_starts_children_and_workers() {
    let script = "
        const { execFileSync } = require('child_process');
        const { Worker } = require('worker_threads');
        const server = require('http').createServer((_, answer) => answer.end('served'));
        server.listen(0, '127.0.0.1', async () => {
            const answer = await fetch(`http://127.0.0.1:${server.address().port}/`);
            console.log(await answer.text());
            console.log(execFileSync('echo', ['child']).toString().trim());
            const worker = new Worker('require(\"worker_threads\").parentPort.postMessage(\"worker\")', { eval: true });
            worker.on('message', (word) => { console.log(word); server.close(); process.exit(4); });
        });";
    on_qemu(&["node", "--memory", "1g", "--", "node", "-e", script])
        .run()
        .exits(4)
        .prints("served\nchild\nworker\n");
}
