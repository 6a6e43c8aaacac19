//! Kubernetes' quantities: `500m`, `2`, `1.5Gi`, `100M`, `1e9`. Binary and decimal units, thousandths, and an exponent.

/// Reads a quantity in thousandths, rounded up; `None` where it is none, is negative, or does not fit.
pub fn thousandths(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 9 {
        return None;
    }
    let exponent = |text: &str| match text.strip_prefix('-') {
        Some(less) => less.parse::<u32>().ok().map(|less| (1u128, 10u128.checked_pow(less.min(30)))),
        None => text
            .strip_prefix('+')
            .unwrap_or(text)
            .parse::<u32>()
            .ok()
            .map(|more| (10u128.checked_pow(more.min(30)).unwrap_or(u128::MAX), Some(1))),
    };
    let (times, over) = match unit {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (10u128.pow(12), 1),
        "P" => (10u128.pow(15), 1),
        "E" => (10u128.pow(18), 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let (times, over) = exponent(unit.strip_prefix(['e', 'E'])?)?;
            (times, over?)
        }
    };
    let scale = 10u128.pow(fraction.len() as u32);
    let parse = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let value = parse(whole)?.checked_mul(scale)?.checked_add(parse(fraction)?)?;
    let value = value.checked_mul(times)?.checked_mul(1000)?.div_ceil(scale.checked_mul(over)?);
    u64::try_from(value).ok()
}

/// Reads a quantity of whole things, such as bytes, rounded up.
pub fn whole(text: &str) -> Option<u64> {
    thousandths(text).map(|value| value.div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_what_kubernetes_says() {
        for (text, value) in [
            ("500m", 500),
            ("2", 2000),
            ("0.5", 500),
            (".5", 500),
            ("1.5", 1500),
            ("100u", 1),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("1e-3", 1),
            ("0", 0),
        ] {
            assert_eq!(thousandths(text), Some(value), "{text}");
        }
        for (text, value) in [
            ("128Mi", 128 << 20),
            ("1.5Gi", 3 << 29),
            ("100M", 100_000_000),
            ("1k", 1000),
            ("7", 7),
            ("1500m", 2),
        ] {
            assert_eq!(whole(text), Some(value), "{text}");
        }
        for text in
            ["", "m", ".", "-1", "1.2.3", "1MiB", "1 Gi", "x", "1e", "1ee3", "99999999999999999999E", "1e999"]
        {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_quantity_or_none(text in "[0-9.eEkKmMgGi+-]{0,12}") {
            let _ = (thousandths(&text), whole(&text));
        }
    }
}
