//! Containers' ids and names: 64 hexadecimal digits by chance, and a name of two words where the user gives none.

/// Bytes of randomness from the kernel.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // Every kernel that KVM runs on has the call; without it ids still differ by time and process.
            Err(_) => {
                let seed = super::clock::now() ^ u64::from(std::process::id()) << 40;
                for (at, byte) in bytes.iter_mut().enumerate() {
                    *byte = (seed.rotate_left(at as u32 * 7) >> 8) as u8;
                }
                break;
            }
        }
    }
    bytes
}

/// A new container's id.
pub fn id() -> String {
    random::<32>().iter().map(|byte| format!("{byte:02x}")).collect()
}

const ADJECTIVES: [&str; 32] = [
    "able", "amber", "bold", "brave", "brisk", "calm", "clear", "deft", "eager", "early", "fair", "firm",
    "fleet", "gentle", "glad", "keen", "kind", "lively", "lucid", "merry", "mild", "neat", "noble", "quick",
    "quiet", "ready", "sharp", "steady", "still", "swift", "true", "warm",
];
const NOUNS: [&str; 32] = [
    "anchor", "barge", "bay", "beacon", "brook", "buoy", "canal", "canoe", "cape", "cove", "current",
    "delta", "dock", "eddy", "estuary", "fjord", "gull", "harbour", "heron", "island", "jetty", "keel",
    "lagoon", "mooring", "oar", "pier", "quay", "reef", "sail", "shoal", "strait", "tide",
];

/// A name by chance, such as `brisk_heron`. Later attempts have a number at the end, so that one is free soon.
pub fn suggestion(attempt: u32) -> String {
    let [first, second, third] = random();
    let pick = |words: &[&'static str; 32], byte: u8| words[usize::from(byte % 32)];
    let name = format!("{}_{}", pick(&ADJECTIVES, first), pick(&NOUNS, second));
    if attempt < 3 { name } else { format!("{name}{}", u32::from(third) + attempt) }
}

/// Docker's rule: at least two of `[a-zA-Z0-9_.-]`, the first a letter or digit.
pub fn is_valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    starts
        && (2..=128).contains(&name.len())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_and_differ() {
        let (one, other) = (id(), id());
        assert!(one.len() == 64 && one.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(one, other);
    }

    #[test]
    fn suggestions_are_names() {
        for attempt in 0..200 {
            let name = suggestion(attempt);
            assert!(is_valid(&name), "{name}");
        }
    }

    #[test]
    fn names_are_dockers() {
        for name in ["ab", "web-1", "a.b_c", "0x"] {
            assert!(is_valid(name), "{name}");
        }
        for name in ["", "a", "-ab", ".ab", "a b", "a/b", "ä1", "../x", &"x".repeat(129)] {
            assert!(!is_valid(name), "{name}");
        }
    }
}
