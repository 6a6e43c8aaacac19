//! The fuzz targets' functions on a fixed sequence of inputs: the same on every machine, in a moment.

#[path = "../fuzz/inputs.rs"]
mod inputs;

/// Numbers that look random (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}

/// Bytes of a kind that gets further than noise: an example with some of its bytes changed, cut or said twice.
fn mutated(numbers: &mut Numbers, examples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = examples[numbers.next(examples.len())].clone();
    for _ in 0..numbers.next(6) {
        let at = numbers.next(bytes.len().max(1)).min(bytes.len());
        match numbers.next(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, numbers.next(256) as u8),
            2 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][numbers.next(5)],
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

fn run(name: &str, target: fn(&[u8])) {
    let seeds = inputs::seeds(name);
    assert!(!seeds.is_empty(), "{name} begins with nothing");
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..5000 {
        target(&mutated(&mut numbers, &seeds));
    }
}

#[test]
fn mutated_frames_messages_databases_and_replies_are_survived() {
    run("frames", inputs::frames);
    run("messages", inputs::messages);
    run("databases", inputs::databases);
    run("netlink", inputs::netlink);
}
