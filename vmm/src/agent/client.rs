//! A ttrpc client over one stream: many calls in flight, each waiting in its own thread for its own answer.
//!
//! One thread reads frames and hands each answer to the call it belongs to; callers write whole frames in turn. The peer is
//! the guest, so nothing it sends is believed: a frame over ttrpc's limit or of a kind no client receives ends the
//! connection, an answer to a call nobody made is dropped, and memory is bounded by the calls we make ourselves.

use ferry_init::api::frame::{self, HEADER_LEN, Header, Kind, MAX_MESSAGE};
use ferry_init::api::protobuf::Message;
use ferry_init::api::ttrpc::{self, Code};
use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The agent refused, or could not.
    #[error("{message}")]
    Status {
        /// A [`Code`], or a number that none of them has.
        code: i32,
        /// The agent's sentence, made fit for a terminal.
        message: String,
    },
    /// The connection is over; the reason is the first thing that went wrong on it.
    #[error("the connection to the guest is lost: {0}")]
    Closed(String),
    /// The answer is not the message that belongs to the call.
    #[error("the guest answered {0} with bytes that are no answer to it")]
    Malformed(&'static str),
    /// The message is longer than ttrpc can carry.
    #[error("{0}: the message is longer than the 4 MiB that the guest's agent takes")]
    TooLong(&'static str),
    /// The caller stopped waiting.
    #[error("the guest did not answer {0} in time")]
    GaveUp(&'static str),
}

impl CallError {
    /// Whether the agent answered with this code.
    pub fn is(&self, wanted: Code) -> bool {
        matches!(self, Self::Status { code, .. } if *code == wanted as i32)
    }
}

/// What one call waits for.
type Answer = Result<Vec<u8>, CallError>;

/// The calls under way.
#[derive(Default)]
struct Calls {
    /// The stream id of the next call; odd, as a client's are.
    next: u32,
    waiting: HashMap<u32, SyncSender<Answer>>,
    /// Why the connection is over, once it is.
    closed: Option<String>,
}

struct Shared {
    stream: UnixStream,
    writing: Mutex<()>,
    calls: Mutex<Calls>,
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, reason: &str) {
        let mut calls = self.calls();
        calls.closed.get_or_insert_with(|| reason.to_owned());
        // Dropping the senders wakes every call; the shutdown wakes the reader and whoever is writing.
        calls.waiting.clear();
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn closed(&self) -> CallError {
        CallError::Closed(self.calls().closed.clone().unwrap_or_else(|| "it was closed".to_owned()))
    }
}

/// A connection to an agent. Cloning shares it; it ends with [`Client::close`], with its last clone, or with the peer.
#[derive(Clone)]
pub struct Client(Arc<Owner>);

/// Closes the connection with the last client; the reader thread holds [`Shared`] alone.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close("it is no longer needed");
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let calls = self.0.0.calls();
        f.debug_struct("Client")
            .field("waiting", &calls.waiting.len())
            .field("closed", &calls.closed)
            .finish()
    }
}

impl Client {
    /// Speaks ttrpc on `stream` from its next byte on.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        let reader = stream.try_clone()?;
        let calls = Mutex::new(Calls { next: 1, ..Calls::default() });
        let shared = Arc::new(Shared { stream, writing: Mutex::new(()), calls });
        let for_reader = Arc::clone(&shared);
        std::thread::Builder::new().name("agent-reader".into()).spawn(move || {
            let reason = match read_frames(reader, &for_reader) {
                Ok(()) => "the guest closed it".to_owned(),
                Err(error) => error.to_string(),
            };
            for_reader.close(&reason);
        })?;
        Ok(Self(Arc::new(Owner(shared))))
    }

    /// Ends the connection: every call under way fails with `reason`, unless another came first.
    pub fn close(&self, reason: &str) {
        self.0.0.close(reason);
    }

    /// Makes a call and waits for its answer as long as `wait` lasts.
    pub fn call<Answer: Message + Default>(
        &self,
        service: &str,
        method: &'static str,
        message: &impl Message,
        wait: Wait<'_>,
    ) -> Result<Answer, CallError> {
        self.begin(service, method, message)?.wait(wait)
    }

    /// Makes a call whose answer is waited for later. Calls begun by one thread reach the agent in that order.
    pub fn begin<Answer: Message + Default>(
        &self,
        service: &str,
        method: &'static str,
        message: &impl Message,
    ) -> Result<Pending<Answer>, CallError> {
        let receiver = self.send(service, method, message)?;
        Ok(Pending { receiver, client: self.clone(), method, answer: PhantomData })
    }

    fn send(
        &self,
        service: &str,
        method: &'static str,
        message: &impl Message,
    ) -> Result<Receiver<Answer>, CallError> {
        let shared = &self.0.0;
        let request = ttrpc::Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: message.encode_to_vec(),
            ..Default::default()
        };
        let request = request.encode_to_vec();
        let (sender, receiver) = sync_channel(1);
        let id = {
            let mut calls = shared.calls();
            if let Some(reason) = &calls.closed {
                return Err(CallError::Closed(reason.clone()));
            }
            let id = calls.next;
            // After 2^31 calls the ids begin again; a call that old and still waiting keeps its own.
            calls.next = calls.next.checked_add(2).unwrap_or(1);
            if calls.waiting.contains_key(&id) {
                return Err(CallError::Closed("stream ids are used up".to_owned()));
            }
            calls.waiting.insert(id, sender);
            id
        };
        let Some(bytes) = frame::encode(Kind::Request, id, &request) else {
            shared.calls().waiting.remove(&id);
            return Err(CallError::TooLong(method));
        };
        let _turn = shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = (&shared.stream).write_all(&bytes) {
            shared.close(&error.to_string());
            return Err(shared.closed());
        }
        Ok(receiver)
    }
}

/// A call under way.
pub struct Pending<Answer> {
    receiver: Receiver<self::Answer>,
    client: Client,
    method: &'static str,
    answer: PhantomData<Answer>,
}

impl<Answer: Message + Default> Pending<Answer> {
    /// Waits for the answer. A call that is given up stays given up: its answer is dropped when it comes.
    pub fn wait(self, wait: Wait<'_>) -> Result<Answer, CallError> {
        let payload = wait.receive(&self.receiver, || self.client.0.0.closed(), self.method)??;
        Answer::decode(payload.as_slice()).map_err(|_| CallError::Malformed(self.method))
    }
}

/// How long to wait for an answer.
#[derive(Clone, Copy)]
pub enum Wait<'a> {
    /// Until it comes or the connection ends.
    Forever,
    /// No longer than this.
    AtMost(Duration),
    /// Until this says true; it is asked a few times a second.
    Until(&'a dyn Fn() -> bool),
}

/// How often [`Wait::Until`] asks.
const ASK_EVERY: Duration = Duration::from_millis(100);

impl Wait<'_> {
    fn receive(
        self,
        receiver: &Receiver<Answer>,
        closed: impl Fn() -> CallError,
        method: &'static str,
    ) -> Result<Answer, CallError> {
        loop {
            let patience = match self {
                Self::Forever => return receiver.recv().map_err(|_| closed()),
                Self::AtMost(patience) => patience,
                Self::Until(_) => ASK_EVERY,
            };
            match receiver.recv_timeout(patience) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(closed()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if !matches!(self, Self::Until(over) if !over()) {
                return Err(CallError::GaveUp(method));
            }
        }
    }
}

/// Hands out answers until the stream ends. Ending between two frames is the peer's regular way.
fn read_frames(stream: UnixStream, shared: &Shared) -> io::Result<()> {
    let mut stream = BufReader::with_capacity(64 << 10, stream);
    let fault = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    loop {
        let mut header = [0; HEADER_LEN];
        if stream.read(&mut header[..1])? == 0 {
            return Ok(());
        }
        stream.read_exact(&mut header[1..])?;
        let header = Header::decode(&header);
        if header.length as usize > MAX_MESSAGE {
            return fault("the guest sent a message over the limit");
        }
        if header.kind() != Some(Kind::Response) {
            return fault("the guest sent a frame that is no answer");
        }
        let mut message = Vec::new();
        // Grows with what really arrives: a header alone commits no memory.
        (&mut stream).take(u64::from(header.length)).read_to_end(&mut message)?;
        if message.len() < header.length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(caller) = shared.calls().waiting.remove(&header.stream_id) else { continue };
        // The channel has room for one and is sent to once; a caller that has left does not matter.
        let _ = caller.try_send(answer(&message));
    }
}

fn answer(message: &[u8]) -> Answer {
    let Ok(response) = ttrpc::Response::decode(message) else { return Err(CallError::Malformed("a call")) };
    match response.status {
        Some(status) if status.code != Code::Ok as i32 => {
            Err(CallError::Status { code: status.code, message: printable(&status.message) })
        }
        _ => Ok(response.payload),
    }
}

/// Text from the guest for a person's terminal: one line, no control characters, not endless.
pub fn printable(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_init::api::agent::{Empty, ReadStreamResponse};

    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Client::new(ours).unwrap(), theirs)
    }

    fn call(client: &Client) -> Result<ReadStreamResponse, CallError> {
        client.call("service", "Method", &Empty {}, Wait::AtMost(Duration::from_secs(10)))
    }

    fn receive(stream: &mut UnixStream) -> (u32, ttrpc::Request) {
        let mut header = [0; HEADER_LEN];
        stream.read_exact(&mut header).unwrap();
        let header = Header::decode(&header);
        let mut message = vec![0; header.length as usize];
        stream.read_exact(&mut message).unwrap();
        (header.stream_id, ttrpc::Request::decode(message.as_slice()).unwrap())
    }

    fn send(stream: &mut UnixStream, id: u32, data: &[u8]) {
        let payload = ReadStreamResponse { data: data.to_vec() }.encode_to_vec();
        let response = ttrpc::Response { status: None, payload }.encode_to_vec();
        stream.write_all(&frame::encode(Kind::Response, id, &response).unwrap()).unwrap();
    }

    #[test]
    fn answers_find_their_calls_in_any_order() {
        let (client, mut peer) = pair();
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| call(&client).unwrap().data)).collect();
            let mut ids: Vec<u32> = (0..8).map(|_| receive(&mut peer).0).collect();
            assert!(ids.iter().all(|id| id % 2 == 1));
            ids.reverse();
            for id in &ids {
                send(&mut peer, *id, &id.to_be_bytes());
            }
            let mut got: Vec<_> = calls.into_iter().map(|c| c.join().unwrap()).collect();
            got.sort();
            ids.sort_unstable();
            assert_eq!(got, ids.iter().map(|id| id.to_be_bytes().to_vec()).collect::<Vec<_>>());
        });
    }

    #[test]
    fn a_status_is_an_error_in_the_agents_words() {
        let (client, mut peer) = pair();
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| call(&client));
            let (id, request) = receive(&mut peer);
            assert_eq!((request.service.as_str(), request.method.as_str()), ("service", "Method"));
            let status = ttrpc::Status { code: 5, message: "no\x1b[31m such\nthing".into() };
            let response = ttrpc::Response { status: Some(status), payload: vec![] }.encode_to_vec();
            peer.write_all(&frame::encode(Kind::Response, id, &response).unwrap()).unwrap();
            let error = caller.join().unwrap().unwrap_err();
            assert!(error.is(Code::NotFound));
            assert_eq!(error.to_string(), "no [31m such thing");
        });
    }

    #[test]
    fn the_peers_end_ends_every_call() {
        let (client, peer) = pair();
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..3).map(|_| scope.spawn(|| call(&client))).collect();
            std::thread::sleep(Duration::from_millis(20));
            drop(peer);
            for caller in callers {
                assert!(matches!(caller.join().unwrap(), Err(CallError::Closed(_))));
            }
        });
        assert!(matches!(call(&client), Err(CallError::Closed(_))));
    }

    #[test]
    fn our_own_end_has_the_first_reason() {
        let (client, _peer) = pair();
        client.close("the VM has ended");
        client.close("something later");
        assert!(matches!(call(&client), Err(CallError::Closed(reason)) if reason == "the VM has ended"));
    }

    #[test]
    fn hostile_frames_end_the_connection_and_commit_no_memory() {
        let oversized = Header { length: u32::MAX, stream_id: 1, kind: 2, flags: 0 }.encode().to_vec();
        let request = frame::encode(Kind::Request, 1, b"").unwrap();
        let unknown = Header { length: 0, stream_id: 1, kind: 77, flags: 0 }.encode().to_vec();
        let truncated = Header { length: 100, stream_id: 1, kind: 2, flags: 0 }.encode().to_vec();
        let half = vec![0; 5];
        for bytes in [oversized, request, unknown, truncated, half] {
            let (client, mut peer) = pair();
            std::thread::scope(|scope| {
                let caller = scope.spawn(|| call(&client));
                receive(&mut peer);
                peer.write_all(&bytes).unwrap();
                peer.shutdown(Shutdown::Write).unwrap();
                assert!(matches!(caller.join().unwrap(), Err(CallError::Closed(_))), "{bytes:?}");
            });
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { cases: 200, ..Default::default() })]

        #[test]
        fn whatever_the_peer_sends_every_call_ends(
            frames in proptest::collection::vec(
                (0u32..5, 0u8..5, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)), 0..8),
            tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..32),
        ) {
            let (client, mut peer) = pair();
            std::thread::scope(|scope| {
                let caller = scope.spawn(|| call(&client));
                receive(&mut peer);
                let mut bytes = Vec::new();
                for (stream_id, kind, message) in frames {
                    let header = Header { length: message.len() as u32, stream_id, kind, flags: 0 };
                    bytes.extend(header.encode());
                    bytes.extend(message);
                }
                bytes.extend(tail);
                // The client may have hung up already.
                let _ = peer.write_all(&bytes);
                let _ = peer.shutdown(Shutdown::Write);
                let answer = caller.join();
                assert!(!matches!(answer, Ok(Err(CallError::GaveUp(_)))), "the call was left waiting");
            });
        }
    }

    #[test]
    fn answers_nobody_waits_for_are_dropped_and_garbage_is_an_error_of_its_call() {
        let (client, mut peer) = pair();
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| call(&client));
            let (id, _) = receive(&mut peer);
            send(&mut peer, id + 2, b"stray");
            send(&mut peer, 2, b"even");
            peer.write_all(&frame::encode(Kind::Response, id, &[0xff; 40]).unwrap()).unwrap();
            assert!(matches!(caller.join().unwrap(), Err(CallError::Malformed(_))));
            let caller = scope.spawn(|| call(&client));
            let (id, _) = receive(&mut peer);
            send(&mut peer, id, b"fine");
            assert_eq!(caller.join().unwrap().unwrap().data, b"fine");
        });
    }

    #[test]
    fn a_call_can_be_given_up() {
        let (client, _peer) = pair();
        let got: Result<Empty, _> =
            client.call("s", "Slow", &Empty {}, Wait::AtMost(Duration::from_millis(20)));
        assert!(matches!(got, Err(CallError::GaveUp("Slow"))));
        let got: Result<Empty, _> = client.call("s", "Slow", &Empty {}, Wait::Until(&|| true));
        assert!(matches!(got, Err(CallError::GaveUp("Slow"))));
    }

    #[test]
    fn a_message_over_the_limit_is_refused_here() {
        let (client, _peer) = pair();
        let big = ReadStreamResponse { data: vec![0; MAX_MESSAGE] };
        let got: Result<Empty, _> = client.call("s", "Big", &big, Wait::Forever);
        assert!(matches!(got, Err(CallError::TooLong("Big"))));
    }
}
