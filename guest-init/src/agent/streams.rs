//! stdio: moving bytes between the processes' streams and the calls parked at them.

use super::process::{Caller, Channel, INPUT_LIMIT, Write};
use super::{Agent, Outcome, ProcessKey, System, process_of};
use crate::api::agent as api;
use crate::api::ttrpc::EOF;
use crate::fault::reason;
use crate::prelude::*;

fn eof() -> Fault {
    fault!(InvalidArgument, "{EOF}")
}

impl<S: System> Agent<S> {
    /// `ReadStdout`, `ReadStderr`.
    pub(super) fn read_output(
        &mut self,
        caller: Caller,
        key: ProcessKey,
        channel: Channel,
        length: u32,
    ) -> Outcome {
        let is_kept = self.keeper.service_of(&key).is_some();
        let output = &mut self.known_process(&key)?.outputs[channel as usize];
        if output.ended {
            return Err(eof());
        }
        refuse_if!(length == 0, InvalidArgument, "a read of no bytes");
        refuse_if!(is_kept, FailedPrecondition, "what a service writes is kept for ServiceLog");
        output.readers.push((caller, length as usize));
        self.pump_output(&key, channel);
        Ok(None)
    }

    /// Answers reads while there is data.
    pub(super) fn pump_output(&mut self, key: &ProcessKey, channel: Channel) {
        if let Some(at) = self.keeper.service_of(key) {
            return self.keep_output(at, key, channel);
        }
        loop {
            let Agent { system, containers, clients, chunk, .. } = self;
            let Some(process) = process_of(containers, key) else { return };
            let has_ended = process.status().is_some();
            let is_waited = process.waited;
            let output = &mut process.outputs[channel as usize];
            let Some(stream) = output.stream else { return };
            let Some(&(caller, length)) = output.readers.first() else {
                // Nobody reads, and perhaps nobody will: an ended stream need not be kept for that.
                if has_ended && is_waited && system.at_end(stream) {
                    self.end_output(key, channel);
                }
                return;
            };
            let Some(client) = clients.get_mut(&caller.connection) else {
                output.readers.remove(0);
                continue;
            };
            if !client.has_room() {
                return;
            }
            let length = length.min(chunk.len());
            match system.read(stream, &mut chunk[..length]) {
                Ok(length) if length > 0 => {
                    output.readers.remove(0);
                    client.answer_data(caller.stream_id, &chunk[..length]);
                    self.send(caller.connection);
                }
                Err(Errno::EAGAIN) => return,
                // A terminal that nobody has open just now; another process may open it again.
                Err(Errno::EIO) if !has_ended => return,
                Ok(_) | Err(_) => return self.end_output(key, channel),
            }
        }
    }

    /// The stream has ended: whoever waits is told.
    pub(super) fn end_output(&mut self, key: &ProcessKey, channel: Channel) {
        let Some(process) = self.process(key) else { return };
        let output = &mut process.outputs[channel as usize];
        output.ended = true;
        let readers = core::mem::take(&mut output.readers);
        let stream = output.stream.take();
        self.close(stream);
        for (caller, _) in readers {
            self.answer(caller, Err(eof()));
        }
        self.tidy(&key.container);
    }

    /// Goes on with every parked read, and with what services write.
    pub(super) fn pump_waiting_outputs(&mut self) {
        let mut waiting = Vec::new();
        for (id, container) in self.containers.iter() {
            for (name, process) in container.processes.iter() {
                for channel in [Channel::Out, Channel::Err] {
                    let key = ProcessKey { container: id.clone(), process: name.clone() };
                    let is_read = !process.outputs[channel as usize].readers.is_empty();
                    if is_read || self.keeper.service_of(&key).is_some() {
                        waiting.push((key, channel));
                    }
                }
            }
        }
        for (key, channel) in waiting {
            self.pump_output(&key, channel);
        }
    }

    /// `WriteStdin`.
    pub(super) fn write_input(&mut self, caller: Caller, call: api::WriteStreamRequest) -> Outcome {
        let (key, data) = (self.key(&call.container_id, &call.exec_id)?, call.data);
        let process = self.known_process(&key)?;
        let has_ended = process.status().is_some();
        let input = &mut process.input;
        refuse_if!(input.closing || has_ended, FailedPrecondition, "stdin is closed");
        let is_full = input.waiting + data.len() > INPUT_LIMIT;
        refuse_if!(is_full, ResourceExhausted, "the process does not read its stdin; wait for an answer");
        input.waiting += data.len();
        input.writes.push(Write { caller, data, done: 0 });
        self.pump_input(&key);
        Ok(None)
    }

    /// Writes while the process takes it.
    pub(super) fn pump_input(&mut self, key: &ProcessKey) {
        loop {
            let Agent { system, containers, .. } = self;
            let Some(process) = process_of(containers, key) else { return };
            let input = &mut process.input;
            let Some(stream) = input.stream else { return };
            let Some(write) = input.writes.first_mut() else {
                if input.closing {
                    let stream = input.stream.take();
                    self.close(stream);
                }
                return;
            };
            let rest = &write.data[write.done..];
            let result = if rest.is_empty() { Ok(0) } else { system.write(stream, rest) };
            match result {
                Ok(length) => {
                    write.done += length;
                    input.waiting -= length;
                    if write.done == write.data.len() {
                        let (caller, length) = (write.caller, write.data.len() as u32);
                        input.writes.remove(0);
                        self.answer(caller, Ok(api::WriteStreamResponse { len: length }.encode_to_vec()));
                    }
                }
                Err(Errno::EAGAIN) => return,
                Err(errno) => return self.end_input(key, errno),
            }
        }
    }

    /// The process does not read any more: whoever waits is told.
    pub(super) fn end_input(&mut self, key: &ProcessKey, errno: Errno) {
        let Some(process) = self.process(key) else { return };
        let input = core::mem::take(&mut process.input);
        process.input.closing = true;
        self.close(input.stream);
        for write in input.writes {
            let why = match errno {
                Errno::EPIPE => "stdin is closed",
                other => reason(other),
            };
            self.answer(write.caller, Err(fault!(FailedPrecondition, "{why}")));
        }
    }

    /// `CloseStdin`. A terminal's input has no end of its own, so there it does nothing.
    pub(super) fn close_input(&mut self, key: ProcessKey) -> Outcome {
        let process = self.known_process(&key)?;
        if !process.spec.terminal {
            process.input.closing = true;
            self.pump_input(&key);
        }
        Ok(Some(Vec::new()))
    }

    /// `TtyWinResize`.
    pub(super) fn resize(&mut self, key: ProcessKey, rows: u32, columns: u32) -> Outcome {
        let process = self.known_process(&key)?;
        let (Ok(rows), Ok(columns)) = (u16::try_from(rows), u16::try_from(columns)) else {
            return Err(fault!(InvalidArgument, "a terminal has at most 65535 rows and columns"));
        };
        refuse_if!(!process.spec.terminal, FailedPrecondition, "the process has no terminal");
        match process.outputs[Channel::Out as usize].stream {
            Some(stream) => {
                self.system.resize(stream, rows, columns).map_err(|errno| Fault::system(&"resize", errno))?;
            }
            // Not started: its first size. Ended: nothing to do.
            None => {
                let size = crate::api::oci::Box { height: rows.into(), width: columns.into() };
                process.spec.console_size = Some(size);
            }
        }
        Ok(Some(Vec::new()))
    }
}

/// No such process.
pub(super) fn no_process(key: &ProcessKey) -> Fault {
    match key.process.as_str() {
        "" => no_container(&key.container),
        name => fault!(InvalidArgument, "no process {name} in container {}", key.container),
    }
}

/// No such container.
pub(super) fn no_container(id: &str) -> Fault {
    fault!(InvalidArgument, "no container {id}")
}
