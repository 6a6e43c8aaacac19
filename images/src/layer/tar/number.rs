//! Numbers as tar headers write them.

type Result<T> = std::result::Result<T, &'static str>;

/// A header field: octal digits, perhaps between spaces or NULs; or, with the first bit set, two's complement
/// in base 256 (GNU).
pub(super) fn field(field: &[u8]) -> Result<i64> {
    if let Some(first) = field.first()
        && first & 0x80 != 0
    {
        let negative = first & 0x40 != 0;
        // The marker bit becomes a copy of the sign.
        let first = if negative { *first } else { first & 0x7f };
        let mut number: i64 = if negative { -1 } else { 0 };
        for byte in std::iter::once(&first).chain(&field[1..]) {
            number = number.checked_mul(256).ok_or("a number of more than 64 bits")?;
            number |= i64::from(*byte);
        }
        return Ok(number);
    }
    let digits = trim(field);
    let mut number: i64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return Err("a number that is not octal");
        }
        number = number.checked_mul(8).ok_or("a number of more than 64 bits")?;
        number += i64::from(digit - b'0');
    }
    Ok(number)
}

fn trim(field: &[u8]) -> &[u8] {
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let field = &field[start..];
    // What follows the first terminator means nothing.
    let end = field.iter().position(blank).unwrap_or(field.len());
    &field[..end]
}

/// A number of an extended header: decimal digits and nothing else.
pub(super) fn decimal(text: &[u8]) -> Result<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err("a number that is not decimal");
    }
    let text = std::str::from_utf8(text).map_err(|_| "a number that is not decimal")?;
    text.parse().map_err(|_| "a number of more than 64 bits")
}

/// A time of an extended header: seconds since 1970, perhaps negative, perhaps with a fraction; as whole
/// seconds before it and nanoseconds after them.
pub(super) fn time(text: &[u8]) -> Result<(i64, u32)> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| "a time of more than 64 bits")?;
    let mut nanoseconds = 0;
    for position in 0..9 {
        let digit = match fraction.get(position) {
            Some(digit) if digit.is_ascii_digit() => u32::from(digit - b'0'),
            Some(_) => return Err("a time that is not decimal"),
            None => 0,
        };
        nanoseconds = nanoseconds * 10 + digit;
    }
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err("a time that is not decimal");
    }
    Ok(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_octal_in_all_its_clothes() {
        for text in [&b"0000644\0"[..], b"   644 \0", b"644", b"644 \0\0\0", b"\x00\x00644\0", b"644\0rest"] {
            assert_eq!(field(text), Ok(0o644), "{text:?}");
        }
        assert_eq!(field(b"\0\0\0\0"), Ok(0));
        assert_eq!(field(b"        "), Ok(0));
        assert!(field(b"0000648\0").is_err());
        assert!(field(b"-1").is_err());
        assert!(field(&[b'7'; 30]).is_err());
    }

    #[test]
    fn reads_base_256_of_both_signs() {
        assert_eq!(field(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]), Ok(0xffff_fffe));
        assert_eq!(field(&[0xff; 12]), Ok(-1));
        assert_eq!(
            field(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00]),
            Ok(-256)
        );
        assert_eq!(field(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Ok(i64::MAX));
        assert!(field(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(field(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn reads_times_before_and_after_1970() {
        assert_eq!(time(b"1.5"), Ok((1, 500_000_000)));
        assert_eq!(time(b"-1.5"), Ok((-2, 500_000_000)));
        assert_eq!(time(b"-3"), Ok((-3, 0)));
        assert_eq!(time(b"0.0000000019"), Ok((0, 1)));
        assert_eq!(time(b"5000000000.123456789"), Ok((5_000_000_000, 123_456_789)));
        assert_eq!(time(b"7."), Ok((7, 0)));
        for bad in [&b""[..], b"-", b".5", b"1.x", b"1.0000000000x", b"1e5", b"99999999999999999999"] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
    }
}
