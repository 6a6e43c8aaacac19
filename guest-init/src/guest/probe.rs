//! Whether a port of the pod takes connections, or a page answers. A child asks, for it may have to wait.

use crate::api::appliance::ProbeRequest;
use crate::fault::reason;
use crate::prelude::*;
use crate::sys::file::{read, write_all};
use crate::sys::net::connect_tcp;

/// How long a probe may take that does not say, in milliseconds.
const TIMEOUT: u32 = 30_000;

/// `HTTP/1.1 200`: all of an answer that is read.
const STATUS_LINE: usize = 12;

/// `Probe`.
pub fn probe(call: &ProbeRequest) -> Result {
    let port = call.http.as_ref().map_or(call.tcp_port, |page| page.port);
    let port = u16::try_from(port).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| fault!(InvalidArgument, "a port is 1 to 65535"))?;
    let timeout = if call.timeout_ms == 0 { TIMEOUT } else { call.timeout_ms };
    let mut answer = [0; STATUS_LINE];
    let length = (|| -> SysResult<usize> {
        let socket = connect_tcp(port, timeout)?;
        let Some(page) = &call.http else { return Ok(0) };
        let or = |text, default| if str::is_empty(text) { default } else { text };
        let (path, host) = (or(&page.path, "/"), or(&page.host, "localhost"));
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: ferry-init\r\n\r\n");
        write_all(socket.raw(), request.as_bytes())?;
        let mut length = 0;
        while let more @ 1.. = read(socket.raw(), &mut answer[length..])? {
            length += more;
        }
        Ok(length)
    })();
    match length {
        Err(Errno::EAGAIN | Errno::EINPROGRESS) => {
            Err(fault!(FailedPrecondition, "port {port}: no answer in time"))
        }
        Err(errno) => Err(fault!(FailedPrecondition, "port {port}: {}", reason(errno))),
        Ok(_) if call.http.is_none() => Ok(()),
        Ok(length) => judge(&answer[..length]),
    }
}

/// What the first bytes of an answer say.
fn judge(answer: &[u8]) -> Result {
    let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    match status.map(core::str::from_utf8) {
        Some(Ok(status)) if status.starts_with(['2', '3']) => Ok(()),
        Some(Ok(status)) => Err(fault!(FailedPrecondition, "HTTP status {status}")),
        Some(Err(_)) | None => Err(fault!(FailedPrecondition, "the answer is no HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::appliance::HttpCheck;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn only_good_answers_pass() {
        for (answer, passes) in [
            (&b"HTTP/1.1 200"[..], true),
            (b"HTTP/1.0 399", true),
            (b"HTTP/1.1 404", false),
            (b"HTTP/1.1 199", false),
            (b"HTTP/1.1", false),
            (b"SSH-2.0-Open", false),
            (b"", false),
        ] {
            assert_eq!(judge(answer).is_ok(), passes, "{}", answer.escape_ascii());
        }
    }

    /// Probes a server that says these words, of which each is a piece of its own.
    fn probed(words: &'static [&'static str], http: Option<HttpCheck>) -> (Result, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = u32::from(listener.local_addr().unwrap().port());
        let is_page = http.is_some();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while is_page && !request.ends_with(b"\r\n\r\n") {
                request.push(0);
                let last = request.len() - 1;
                if stream.read_exact(&mut request[last..]).is_err() {
                    break;
                }
            }
            // Who asks reads no more than it needs.
            words.iter().for_each(|word| drop(stream.write_all(word.as_bytes())));
            if words.is_empty() {
                let _ = stream.read(&mut [0; 1]);
            }
            String::from_utf8(request).unwrap()
        });
        let http = http.map(|page| HttpCheck { port, ..page });
        let timeout_ms = if words.is_empty() { 300 } else { 60_000 };
        let result = probe(&ProbeRequest { tcp_port: port, http, timeout_ms, ..Default::default() });
        (result, server.join().unwrap())
    }

    #[test]
    fn a_page_is_asked_for_and_a_port_only_connected_to() {
        let page = Some(HttpCheck { path: "/health?x".into(), host: "web".into(), ..Default::default() });
        let (result, request) = probed(&["HT", "TP/1.1 204 No", " Content\r\n"], page.clone());
        assert!(result.is_ok(), "{result:?}");
        assert!(request.starts_with("GET /health?x HTTP/1.0\r\nHost: web\r\n"), "{request}");
        assert!(probed(&["HTTP/1.1 503"], page.clone()).0.unwrap_err().message.contains("503"));
        assert!(probed(&[], page).0.is_err(), "an answer that does not come");
        assert!(probed(&[], None).0.is_ok());
    }

    #[test]
    fn nobody_listens() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let call = ProbeRequest { tcp_port: free.into(), ..Default::default() };
        assert!(probe(&call).unwrap_err().message.contains(&free.to_string()));
        assert!(probe(&ProbeRequest { tcp_port: 65_536, ..Default::default() }).is_err());
    }
}
