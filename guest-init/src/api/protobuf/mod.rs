//! Protocol Buffers' encoding (proto3), for the messages of this API.
//!
//! A message lists its fields, and one decoder and one encoder serve them all by dynamic dispatch: a derived pair for
//! each message was a third of PID 1. What is decoded is somebody else's, so memory is asked for fallibly and
//! an input buys no more than [`ELEMENT_LIMIT`] list entries; nesting is as deep as the types are.

mod field;

pub use field::{Put, Take};

use crate::prelude::*;
use core::fmt;

/// Most entries of lists and maps in one message, those of the messages in it included.
pub const ELEMENT_LIMIT: usize = 1 << 17;

/// Most entries of one map: each finds its place among the others.
pub const MAP_LIMIT: usize = 4096;

/// Bytes that are not the message that they should be, or for which there is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError;

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes are not the message that they should be")
    }
}

impl core::error::Error for DecodeError {}

/// What a field holds, as it was sent.
#[derive(Clone, Copy, Debug)]
pub enum Wire<'a> {
    /// A number of seven bits a byte.
    Number(u64),
    /// A number of four or eight bytes; no field of this API is one.
    Fixed,
    /// Text, bytes, a message or a packed list.
    Bytes(&'a [u8]),
}

/// The wire types: how long what follows a tag is.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// A message as it is read: its fields by number. Apart from [`Source`], since a program that only reads a message need
/// not have what writes it.
pub trait Target {
    /// The field of this number, to be filled; `None` for one that this message does not have, which is skipped.
    fn field(&mut self, number: u32) -> Option<&mut dyn Take>;
}

/// A message as it is written.
pub trait Source {
    /// Calls `each` with every field.
    fn fields(&self, each: &mut dyn FnMut(u32, &dyn Put));
}

/// A message.
pub trait Message: Target + Source + Default {
    /// A message from bytes.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut message = Self::default();
        fill(&mut message, bytes, &mut { ELEMENT_LIMIT })?;
        Ok(message)
    }

    /// The message's bytes.
    fn encode_to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode(self, &mut out);
        out
    }
}

impl<M: Target + Source + Default> Message for M {}

/// Fills a message from bytes; `left` is how many list entries may still come.
fn fill(message: &mut dyn Target, mut bytes: &[u8], left: &mut usize) -> Result<(), DecodeError> {
    while !bytes.is_empty() {
        let (number, wire) = take_field(&mut bytes)?;
        if let Some(field) = message.field(number) {
            field.take(wire, left)?;
        }
    }
    Ok(())
}

/// Appends a message's bytes.
pub fn encode(message: &dyn Source, out: &mut Vec<u8>) {
    message.fields(&mut |number, field| {
        // What has its default value is not sent.
        if !field.is_default() {
            field.put(number, out);
        }
    });
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Wire<'a>), DecodeError> {
    // Most are short texts, whose tag and length are a byte each.
    if let [tag @ 8..0x80, length @ ..0x80, rest @ ..] = *bytes
        && u64::from(tag & 7) == LENGTH
        && let Some((text, rest)) = rest.split_at_checked(usize::from(*length))
    {
        *bytes = rest;
        return Ok((u32::from(tag >> 3), Wire::Bytes(text)));
    }
    let tag = take_varint(bytes)?;
    let number = u32::try_from(tag).map_err(|_| DecodeError)? >> 3;
    if number == 0 {
        return Err(DecodeError);
    }
    let wire = match tag & 7 {
        VARINT => Wire::Number(take_varint(bytes)?),
        FIXED64 => cut(bytes, 8).map(|_| Wire::Fixed)?,
        FIXED32 => cut(bytes, 4).map(|_| Wire::Fixed)?,
        LENGTH => {
            let length = usize::try_from(take_varint(bytes)?).map_err(|_| DecodeError)?;
            Wire::Bytes(cut(bytes, length)?)
        }
        _ => return Err(DecodeError),
    };
    Ok((number, wire))
}

fn cut<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], DecodeError> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(DecodeError)?;
    *bytes = rest;
    Ok(taken)
}

/// Seven bits a byte, the lowest first, and the top bit says that more follow: ten bytes at most.
fn take_varint(bytes: &mut &[u8]) -> Result<u64, DecodeError> {
    // Most are one byte.
    if let Some((&byte @ ..0x80, rest)) = bytes.split_first() {
        *bytes = rest;
        return Ok(byte.into());
    }
    let (mut value, mut shift) = (0, 0);
    while let Some((&byte, rest)) = bytes.split_first().filter(|_| shift < 64) {
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            // The tenth byte has room for one bit.
            return if shift < 63 || byte <= 1 { Ok(value) } else { Err(DecodeError) };
        }
        shift += 7;
    }
    Err(DecodeError)
}

/// Appends a number as it is sent.
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`put_varint`] appends.
pub fn varint_len(value: u64) -> usize {
    (value | 1).ilog2() as usize / 7 + 1
}

/// Appends a field of bytes, but for the bytes themselves.
pub fn put_length(number: u32, length: usize, out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | LENGTH, out);
    put_varint(length as u64, out);
}

/// Defines messages: a structure each, and its fields' numbers. What a field is about stands behind it, or before it
/// where that is long. Calls with the same fields share a message, under a name for each.
macro_rules! messages {
    ($(
        $(#[$about:meta])*
        $name:ident $(| $other:ident)* { $( $(#[$long:meta])* $number:literal $field:ident: $type:ty $(=> $short:literal)?, )* }
    )*) => { $(
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name { $( $(#[$long])* $(#[doc = $short])? pub $field: $type, )* }

        $(
            #[doc = concat!("A [`", stringify!($name), "`].")]
            pub type $other = $name;
        )*

        impl $crate::api::protobuf::Target for $name {
            fn field(&mut self, number: u32) -> Option<&mut dyn $crate::api::protobuf::Take> {
                match number {
                    $( $number => Some(&mut self.$field), )*
                    _ => None,
                }
            }
        }

        impl $crate::api::protobuf::Source for $name {
            #[allow(unused_variables, reason = "a message without fields calls nothing")]
            fn fields(&self, each: &mut dyn FnMut(u32, &dyn $crate::api::protobuf::Put)) {
                $( each($number, &self.$field); )*
            }
        }
    )* };
}
pub(crate) use messages;

/// Defines enumerations, which messages hold as their numbers.
macro_rules! enumerations {
    ($(
        $(#[$about:meta])*
        $name:ident { $( $(#[$about_value:meta])* $value:ident = $number:literal, )* }
    )*) => { $(
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(i32)]
        pub enum $name { $( $(#[$about_value])* $value = $number, )* }

        impl Default for $name {
            fn default() -> $name {
                [$($name::$value),*][0]
            }
        }

        impl From<$name> for i32 {
            fn from(value: $name) -> i32 {
                value as i32
            }
        }

        impl TryFrom<i32> for $name {
            type Error = $crate::api::protobuf::DecodeError;

            fn try_from(number: i32) -> Result<$name, Self::Error> {
                match number {
                    $( $number => Ok($name::$value), )*
                    _ => Err($crate::api::protobuf::DecodeError),
                }
            }
        }
    )* };
}
pub(crate) use enumerations;

#[cfg(test)]
mod tests;
