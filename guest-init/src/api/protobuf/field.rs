//! The types that a field can have.

use super::{
    DecodeError, MAP_LIMIT, Source, Target, VARINT, Wire, encode, fill, put_length, put_varint, take_field,
    take_varint,
};
use crate::prelude::*;
use core::alloc::Layout;
use core::ptr::NonNull;

/// A field of a message that is read.
pub trait Take {
    /// Takes what was sent; a later value replaces an earlier one, in a list it follows it. `left` is how many list
    /// entries may still come.
    fn take(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError>;
}

/// A field of a message that is written.
pub trait Put {
    /// Appends the field under its number.
    fn put(&self, number: u32, out: &mut Vec<u8>);

    /// Whether it has a value that is not sent, which `put` would send.
    fn is_default(&self) -> bool {
        false
    }
}

fn bytes<'a>(wire: Wire<'a>) -> Result<&'a [u8], DecodeError> {
    if let Wire::Bytes(bytes) = wire { Ok(bytes) } else { Err(DecodeError) }
}

fn number(wire: Wire<'_>) -> Result<u64, DecodeError> {
    if let Wire::Number(number) = wire { Ok(number) } else { Err(DecodeError) }
}

fn count(left: &mut usize) -> Result<(), DecodeError> {
    *left = left.checked_sub(1).ok_or(DecodeError)?;
    Ok(())
}

/// The same as a list that grows and is filled, in a quarter of the steps.
fn copy(bytes: &[u8]) -> Option<Vec<u8>> {
    let layout = Layout::for_value(bytes);
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    // SAFETY: the layout is that of a list with this capacity, which is not nothing, and all of the block is filled.
    unsafe {
        let block = NonNull::new(alloc::alloc::alloc(layout))?;
        block.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
        Some(Vec::from_raw_parts(block.as_ptr(), bytes.len(), bytes.len()))
    }
}

fn room<T>(list: &mut Vec<T>, left: &mut usize) -> Result<(), DecodeError> {
    count(left)?;
    list.try_reserve(1).map_err(|_| DecodeError)
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_length(number, bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn put_number(number: u32, value: u64, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | VARINT, out);
    put_varint(value, out);
}

macro_rules! numbers {
    ($($type:ty: |$sent:ident| $from:expr;)*) => { $(
        impl Take for $type {
            fn take(&mut self, wire: Wire<'_>, _: &mut usize) -> Result<(), DecodeError> {
                let $sent = number(wire)?;
                *self = $from;
                Ok(())
            }
        }

        impl Put for $type {
            fn put(&self, number: u32, out: &mut Vec<u8>) {
                // Negative numbers of either width are sent as 64 bits.
                put_number(number, *self as i64 as u64, out);
            }

            fn is_default(&self) -> bool {
                *self == <$type>::default()
            }
        }
    )* };
}

numbers! {
    bool: |number| number != 0;
    u32: |number| number as u32;
    i32: |number| number as i32;
    u64: |number| number;
    i64: |number| number as i64;
}

impl Take for Vec<u8> {
    fn take(&mut self, wire: Wire<'_>, _: &mut usize) -> Result<(), DecodeError> {
        *self = copy(bytes(wire)?).ok_or(DecodeError)?;
        Ok(())
    }
}

impl Take for String {
    fn take(&mut self, wire: Wire<'_>, _: &mut usize) -> Result<(), DecodeError> {
        let text = bytes(wire)?;
        // Eight bytes at once, as most text is ASCII.
        let (words, rest) = text.as_chunks();
        let is_ascii = words.iter().all(|word| u64::from_ne_bytes(*word) & 0x8080_8080_8080_8080 == 0);
        if !(is_ascii && rest.is_ascii()) && core::str::from_utf8(text).is_err() {
            return Err(DecodeError);
        }
        // SAFETY: most text is ASCII, which is UTF-8; the rest was looked at.
        *self = unsafe { String::from_utf8_unchecked(copy(text).ok_or(DecodeError)?) };
        Ok(())
    }
}

/// What is sent as bytes.
macro_rules! sequences {
    ($($type:ty)*) => { $(
        impl Put for $type {
            fn put(&self, number: u32, out: &mut Vec<u8>) {
                put_bytes(number, self.as_ref(), out);
            }

            fn is_default(&self) -> bool {
                self.is_empty()
            }
        }
    )* };
}

sequences! { Vec<u8> String }

impl<M: Target> Take for M {
    fn take(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError> {
        fill(self, bytes(wire)?, left)
    }
}

impl<M: Source> Put for M {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        put_message(number, self, out);
    }
}

fn put_message(number: u32, message: &dyn Source, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    encode(message, &mut inner);
    put_bytes(number, &inner, out);
}

impl<F: Take + Default> Take for Option<F> {
    fn take(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError> {
        self.get_or_insert_default().take(wire, left)
    }
}

impl<F: Put> Put for Option<F> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.put(number, out);
        }
    }
}

/// What lists have one by one: everything but numbers.
pub trait Element {}

impl Element for String {}
impl Element for Vec<u8> {}
impl<M: Target> Element for M {}

impl<E: Element + Take + Default> Take for Vec<E> {
    fn take(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError> {
        room(self, left)?;
        self.push(E::default());
        self.last_mut().map_or(Ok(()), |element| element.take(wire, left))
    }
}

impl<E: Element + Put> Put for Vec<E> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        self.iter().for_each(|element| element.put(number, out));
    }
}

/// Lists of numbers are one piece of bytes, and may also come one by one.
macro_rules! number_lists {
    ($($type:ty)*) => { $(
        impl Take for Vec<$type> {
            fn take(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError> {
                let mut add = |number: u64| {
                    room(self, left)?;
                    self.push(number as $type);
                    Ok(())
                };
                match wire {
                    Wire::Number(number) => add(number),
                    Wire::Fixed => Err(DecodeError),
                    Wire::Bytes(mut bytes) => {
                        while !bytes.is_empty() {
                            add(take_varint(&mut bytes)?)?;
                        }
                        Ok(())
                    }
                }
            }
        }

        impl Put for Vec<$type> {
            fn put(&self, number: u32, out: &mut Vec<u8>) {
                let mut packed = Vec::new();
                self.iter().for_each(|number| put_varint(u64::from(*number), &mut packed));
                put_bytes(number, &packed, out);
            }

            fn is_default(&self) -> bool {
                self.is_empty()
            }
        }
    )* };
}

number_lists! { u32 u64 }

/// A map is a list of messages with two fields, 1 the key and 2 the value.
impl<V: Take + Default> Take for Table<String, V> {
    fn take(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError> {
        let (mut key, mut value) = (String::new(), V::default());
        let mut rest = bytes(wire)?;
        count(left)?;
        while !rest.is_empty() {
            match take_field(&mut rest)? {
                (1, wire) => key.take(wire, left)?,
                (2, wire) => value.take(wire, left)?,
                _ => {}
            }
        }
        let mut entries = core::mem::take(self).into_tuple_vec();
        if entries.len() >= MAP_LIMIT || entries.try_reserve(1).is_err() {
            return Err(DecodeError);
        }
        *self = Table::from_sorted_store_unchecked(entries);
        self.insert(key, value);
        Ok(())
    }
}

impl<V: Put> Put for Table<String, V> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for (key, value) in self.iter() {
            let mut entry = Vec::new();
            key.put(1, &mut entry);
            value.put(2, &mut entry);
            put_bytes(number, &entry, out);
        }
    }
}
