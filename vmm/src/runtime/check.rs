//! A command that is run in a container to see how it is: it has so long, and what it writes first is kept.

use super::command::Entrypoint;
use super::record::Made;
use super::{name, oci};
use crate::agent::session::{Control, ExecSpec, Keyboard, RunError, Stdio, run_exec};
use crate::agent::{Client, Signal};
use std::io::{PipeReader, Read};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How long the guest may take over it beyond the time that the process itself has.
pub(super) const SLACK: Duration = Duration::from_secs(20);
/// Bytes of its output that are kept, as in Docker.
const KEPT: u64 = 4096;

/// Runs it: its exit status and the beginning of its output, or why there is none.
pub(super) fn run(
    client: &Client,
    container: &str,
    made: &Made,
    command: &[String],
    limit: Duration,
) -> Result<(u8, String), String> {
    let options = oci::Options {
        command: command.to_vec(),
        entrypoint: Entrypoint::Cleared,
        ..oci::Options::default()
    };
    let spec = ExecSpec {
        container: container.to_owned(),
        id: format!("check-{}", name::id()),
        process: oci::exec_for(made, &options).map_err(|error| error.to_string())?,
    };
    let (reader, stdio) = streams().map_err(|error| format!("no pipe for its output: {error}"))?;
    let control = Control::new();
    let remote = control.remote();
    let (ended, end) = channel();
    let (status, output) = std::thread::scope(|scope| {
        let output = scope.spawn(|| beginning(reader));
        scope.spawn(|| {
            let status = run_exec(client, &spec, &stdio, control, &|_| {});
            // Whoever reads the output sees its end.
            drop(stdio);
            let _ = ended.send(status);
        });
        let status = match end.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => {
                remote.signal(Signal::KILL);
                let _ = end.recv_timeout(SLACK);
                None
            }
            other => other.ok(),
        };
        (status, output.join().unwrap_or_default())
    });
    match status {
        Some(Ok(status)) => Ok((status, output)),
        Some(Err(RunError::Lost(_))) => Err("the guest is gone".to_owned()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err(format!("its command has not ended within {limit:?}")),
    }
}

/// Both kinds of output, in one pipe.
fn streams() -> std::io::Result<(PipeReader, Stdio)> {
    let (reader, writer) = std::io::pipe()?;
    let stdout = Some(writer.try_clone()?.into());
    Ok((reader, Stdio { stdin: None, stdout, stderr: Some(writer.into()), keyboard: Keyboard::Untouched }))
}

/// What is read first; the rest is thrown away, so that nobody waits for it to be read.
fn beginning(mut reader: PipeReader) -> String {
    let mut bytes = Vec::new();
    let kept = (&mut reader).take(KEPT).read_to_end(&mut bytes);
    if kept.is_ok() {
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_beginning_of_the_output_is_kept_and_nobody_waits_with_the_rest() {
        let (reader, writer) = std::io::pipe().unwrap();
        let writing = std::thread::spawn(move || {
            let mut writer = writer;
            (0..1000).try_for_each(|_| writer.write_all(&[b'x'; 1000]))
        });
        assert_eq!(beginning(reader), "x".repeat(KEPT as usize));
        writing.join().unwrap().unwrap();
    }
}
