//! The types that a field can have.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::{
    DecodeError, Message, VARINT, Wire, encode, merge, put_length, put_varint, take_field, take_varint,
};

/// A field of a message.
pub trait Field {
    /// Takes what was sent; a later value replaces an earlier one, in a list it follows it. `left` is how many list
    /// entries may still come.
    fn merge(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError>;

    /// Appends the field under its number.
    fn write(&self, number: u32, out: &mut Vec<u8>);

    /// Whether it has the value that a field has which is not sent.
    fn is_default(&self) -> bool;
}

fn bytes<'a>(wire: Wire<'a>) -> Result<&'a [u8], DecodeError> {
    match wire {
        Wire::Bytes(bytes) => Ok(bytes),
        Wire::Number(_) | Wire::Fixed => Err(DecodeError),
    }
}

fn room<T>(list: &mut Vec<T>, left: &mut usize) -> Result<(), DecodeError> {
    *left = left.checked_sub(1).ok_or(DecodeError)?;
    list.try_reserve(1).map_err(|_| DecodeError)
}

macro_rules! numbers {
    ($($type:ty: |$sent:ident| $from:expr;)*) => { $(
        impl Field for $type {
            fn merge(&mut self, wire: Wire<'_>, _: &mut usize) -> Result<(), DecodeError> {
                let Wire::Number($sent) = wire else { return Err(DecodeError) };
                *self = $from;
                Ok(())
            }

            fn write(&self, number: u32, out: &mut Vec<u8>) {
                put_varint(u64::from(number) << 3 | VARINT, out);
                // Negative numbers of either width are sent as 64 bits.
                put_varint(*self as i64 as u64, out);
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

impl Field for Vec<u8> {
    fn merge(&mut self, wire: Wire<'_>, _: &mut usize) -> Result<(), DecodeError> {
        let bytes = bytes(wire)?;
        self.clear();
        self.try_reserve_exact(bytes.len()).map_err(|_| DecodeError)?;
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        put_length(number, self.len(), out);
        out.extend_from_slice(self);
    }

    fn is_default(&self) -> bool {
        self.is_empty()
    }
}

impl Field for String {
    fn merge(&mut self, wire: Wire<'_>, _: &mut usize) -> Result<(), DecodeError> {
        let text = core::str::from_utf8(bytes(wire)?).map_err(|_| DecodeError)?;
        self.clear();
        self.try_reserve_exact(text.len()).map_err(|_| DecodeError)?;
        self.push_str(text);
        Ok(())
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        put_length(number, self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }

    fn is_default(&self) -> bool {
        self.is_empty()
    }
}

impl<M: Message> Field for M {
    fn merge(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError> {
        merge(self, bytes(wire)?, left)
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        let mut inner = Vec::new();
        encode(self, &mut inner);
        inner.write(number, out);
    }

    fn is_default(&self) -> bool {
        false
    }
}

impl<F: Field + Default> Field for Option<F> {
    fn merge(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError> {
        self.get_or_insert_default().merge(wire, left)
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.write(number, out);
        }
    }

    fn is_default(&self) -> bool {
        self.is_none()
    }
}

/// What lists have one by one: everything but numbers.
pub trait Element: Field + Default {}

impl Element for String {}
impl Element for Vec<u8> {}
impl<M: Message + Default> Element for M {}

impl<E: Element> Field for Vec<E> {
    fn merge(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError> {
        room(self, left)?;
        let mut element = E::default();
        element.merge(wire, left)?;
        self.push(element);
        Ok(())
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        self.iter().for_each(|element| element.write(number, out));
    }

    fn is_default(&self) -> bool {
        self.is_empty()
    }
}

/// Lists of numbers are one piece of bytes, and may also come one by one.
macro_rules! number_lists {
    ($($type:ty)*) => { $(
        impl Field for Vec<$type> {
            fn merge(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError> {
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

            fn write(&self, number: u32, out: &mut Vec<u8>) {
                let mut packed = Vec::new();
                self.iter().for_each(|number| put_varint(u64::from(*number), &mut packed));
                packed.write(number, out);
            }

            fn is_default(&self) -> bool {
                self.is_empty()
            }
        }
    )* };
}

number_lists! { u32 u64 }

/// A map is a list of messages with two fields, 1 the key and 2 the value.
impl<V: Field + Default> Field for BTreeMap<String, V> {
    fn merge(&mut self, wire: Wire<'_>, left: &mut usize) -> Result<(), DecodeError> {
        let (mut key, mut value) = (String::new(), V::default());
        let mut rest = bytes(wire)?;
        *left = left.checked_sub(1).ok_or(DecodeError)?;
        while !rest.is_empty() {
            match take_field(&mut rest)? {
                (1, wire) => key.merge(wire, left)?,
                (2, wire) => value.merge(wire, left)?,
                _ => {}
            }
        }
        self.insert(key, value);
        Ok(())
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        for (key, value) in self {
            let mut entry = Vec::new();
            key.write(1, &mut entry);
            value.write(2, &mut entry);
            entry.write(number, out);
        }
    }

    fn is_default(&self) -> bool {
        self.is_empty()
    }
}
