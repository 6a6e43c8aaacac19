//! The encoding, held against prost's.

use super::*;
use alloc::collections::BTreeMap;
use alloc::string::String;
use proptest::prelude::*;
use prost::Message as _;

messages! {
    /// Every type that a field can have.
    Ours {
        1 flag: bool => "A field.",
        2 small: u32 => "A field.",
        3 large: u64 => "A field.",
        4 signed: i32 => "A field.",
        5 long: i64 => "A field.",
        6 text: String => "A field.",
        7 bytes: Vec<u8> => "A field.",
        8 inner: Option<Inner> => "A field.",
        9 texts: Vec<String> => "A field.",
        10 inners: Vec<Inner> => "A field.",
        11 numbers: Vec<u32> => "A field.",
        12 words: Table<String, String> => "A field.",
        13 counters: Table<String, u64> => "A field.",
        14 optional: Option<u32> => "A field.",
        2000 far: Vec<Vec<u8>> => "A field.",
    }

    /// A message in a message.
    Inner {
        1 number: u32 => "A field.",
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Theirs {
    #[prost(bool, tag = "1")]
    flag: bool,
    #[prost(uint32, tag = "2")]
    small: u32,
    #[prost(uint64, tag = "3")]
    large: u64,
    #[prost(int32, tag = "4")]
    signed: i32,
    #[prost(int64, tag = "5")]
    long: i64,
    #[prost(string, tag = "6")]
    text: String,
    #[prost(bytes = "vec", tag = "7")]
    bytes: Vec<u8>,
    #[prost(message, optional, tag = "8")]
    inner: Option<TheirInner>,
    #[prost(string, repeated, tag = "9")]
    texts: Vec<String>,
    #[prost(message, repeated, tag = "10")]
    inners: Vec<TheirInner>,
    #[prost(uint32, repeated, tag = "11")]
    numbers: Vec<u32>,
    #[prost(btree_map = "string, string", tag = "12")]
    words: BTreeMap<String, String>,
    #[prost(btree_map = "string, uint64", tag = "13")]
    counters: BTreeMap<String, u64>,
    #[prost(uint32, optional, tag = "14")]
    optional: Option<u32>,
    #[prost(bytes = "vec", repeated, tag = "2000")]
    far: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct TheirInner {
    #[prost(uint32, tag = "1")]
    number: u32,
}

fn ours() -> impl Strategy<Value = Ours> {
    use proptest::collection::{btree_map, vec};
    let inner = || any::<u32>().prop_map(|number| Inner { number });
    (
        (any::<bool>(), any::<u32>(), any::<u64>(), any::<i32>(), any::<i64>(), ".{0,9}"),
        (vec(any::<u8>(), 0..200), proptest::option::of(inner()), vec(".{0,3}", 0..4), vec(inner(), 0..4)),
        (
            vec(any::<u32>(), 0..4),
            btree_map(".{0,3}", ".{0,3}", 0..4),
            btree_map(".{0,3}", any::<u64>(), 0..4),
        ),
        (proptest::option::of(any::<u32>()), vec(vec(any::<u8>(), 0..3), 0..3)),
    )
        .prop_map(
            |((flag, small, large, signed, long, text), (bytes, inner, texts, inners), lists, last)| {
                let (numbers, words, counters) = lists;
                let (optional, far) = last;
                Ours {
                    flag,
                    small,
                    large,
                    signed,
                    long,
                    text,
                    bytes,
                    inner,
                    texts,
                    inners,
                    numbers,
                    words: words.into_iter().collect(),
                    counters: counters.into_iter().collect(),
                    optional,
                    far,
                }
            },
        )
}

proptest! {
    #[test]
    fn a_second_implementation_reads_what_is_written(message in ours()) {
        let bytes = Message::encode_to_vec(&message);
        let theirs = Theirs::decode(&bytes[..]).unwrap();
        prop_assert_eq!(<Ours as Message>::decode(&prost::Message::encode_to_vec(&theirs)), Ok(message.clone()));
        prop_assert_eq!(<Ours as Message>::decode(&bytes), Ok(message));
    }

    #[test]
    fn any_bytes_are_survived_and_no_more_is_accepted_than_elsewhere(
        bytes in proptest::collection::vec(prop_oneof![0u8..16, Just(0x7a), any::<u8>()], 0..60)
    ) {
        if <Ours as Message>::decode(&bytes).is_ok() {
            prop_assert!(Theirs::decode(&bytes[..]).is_ok());
        }
    }

    #[test]
    fn numbers_are_as_long_as_said(number in any::<u64>(), shift in 0u32..64) {
        let mut bytes = Vec::new();
        put_varint(number >> shift, &mut bytes);
        prop_assert_eq!(bytes.len(), varint_len(number >> shift));
        prop_assert_eq!(take_varint(&mut &bytes[..]), Ok(number >> shift));
    }
}

#[test]
fn unknown_fields_are_skipped_and_numbers_may_come_unpacked() {
    // Field 11 twice by itself, field 3000 of each wire type, then field 2.
    let mut bytes = vec![11 << 3, 5, 11 << 3, 6];
    for (wire, data) in [(0, &[9][..]), (1, &[0; 8]), (2, &[1, 7]), (5, &[0; 4])] {
        put_varint(3000 << 3 | wire, &mut bytes);
        bytes.extend(data);
    }
    bytes.extend([2 << 3, 1]);
    let message = <Ours as Message>::decode(&bytes).unwrap();
    assert_eq!((message.numbers, message.small), (vec![5, 6], 1));
}

#[test]
fn a_small_input_buys_no_memory() {
    // Two bytes an element.
    let mut bytes = Vec::new();
    for _ in 0..=ELEMENT_LIMIT {
        put_length(10, 0, &mut bytes);
    }
    assert_eq!(<Ours as Message>::decode(&bytes), Err(DecodeError));
    assert_eq!(<Ours as Message>::decode(&bytes[2..]).unwrap().inners.len(), ELEMENT_LIMIT);
    let mut long = Vec::new();
    put_length(7, usize::MAX, &mut long);
    assert_eq!(<Ours as Message>::decode(&long), Err(DecodeError));
}
