//! Sizes as people write them: `512m`, `2g`, `1.5GiB`. The grammar is Docker's (`units.RAMInBytes`): a decimal number, an
//! optional binary unit from `k` to `p` in either case, and an optional `b` or `ib` after it. No unit means bytes.

use thiserror::Error;

/// One MiB in bytes.
pub const MIB: u64 = 1 << 20;

/// A size that could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{text}' is not a size: write a number and a unit, as in 512m or 2g")]
pub struct SizeError {
    text: String,
}

/// Reads a size in bytes.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let fault = || SizeError { text: text.chars().take(40).collect() };
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(fault()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || number.ends_with('.') || fraction.len() > 9 {
        return Err(fault());
    }
    let whole: u64 = whole.parse().map_err(|_| fault())?;
    let mut bytes = whole.checked_mul(1 << shift).ok_or_else(fault)?;
    if !fraction.is_empty() {
        // At most nine digits and a shift of 50: the product fits in 128 bits with room to spare.
        let digits: u128 = fraction.parse().map_err(|_| fault())?;
        let part = (digits << shift) / 10u128.pow(fraction.len() as u32);
        bytes = u64::try_from(part).ok().and_then(|p| bytes.checked_add(p)).ok_or_else(fault)?;
    }
    Ok(bytes)
}

/// A size as people read it: `512 MiB`, `1.5 GiB`.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scaled = bytes as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    let shown = if unit == 0 || scaled >= 100.0 || scaled.fract() == 0.0 {
        format!("{scaled:.0}")
    } else {
        format!("{scaled:.1}")
    };
    format!("{shown} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_reads() {
        for (text, bytes) in [
            ("0", 0),
            ("32", 32),
            ("32b", 32),
            ("32B", 32),
            ("32k", 32 << 10),
            ("32K", 32 << 10),
            ("32kb", 32 << 10),
            ("32KiB", 32 << 10),
            ("512m", 512 << 20),
            ("512 mb", 512 << 20),
            ("2g", 2 << 30),
            ("1.5GiB", 3 << 29),
            ("0.5g", 1 << 29),
            ("3t", 3 << 40),
            ("1p", 1 << 50),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in [
            "",
            "m",
            "-1",
            "1.",
            ".5m",
            "1..5m",
            "1.2.3m",
            "5x",
            "5mm",
            "5 m b",
            " 5m",
            "5m ",
            "0x10",
            "1e3",
            "lots",
            "16384p",
            "99999999999999999999",
            "1.0000000001g",
        ] {
            assert!(parse_size(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn shows_sizes_in_the_largest_fitting_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (512 << 20, "512 MiB"),
            (10 << 30, "10 GiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
