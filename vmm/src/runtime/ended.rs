//! What is told of a VM that has ended: a report in a file, and its exits by cause.

use super::guest::{End, Tell};
use serde_json::{Value, json};
use std::fmt::Write;

/// Tells what is wanted. `metrics` is what the machine counted, as JSON; what is none counts for nothing.
pub(super) fn tell(tell: &Tell, end: &End, serial: &str, metrics: &str) {
    let metrics = serde_json::from_str(metrics).unwrap_or(Value::Null);
    if let Some(path) = &tell.report {
        let text = format!("{:#}\n", report(end, serial, &metrics));
        if let Err(error) = std::fs::write(path, text) {
            tracing::warn!("the report {} cannot be written: {error}", path.display());
        }
    }
    if tell.exits {
        eprint!("{}", exits(&metrics));
    }
}

fn report(end: &End, serial: &str, metrics: &Value) -> Value {
    json!({"reason": end.reason.word(), "detail": end.detail, "serial": serial, "metrics": metrics})
}

/// A line for each vCPU: its exits, the most frequent first.
fn exits(metrics: &Value) -> String {
    let mut text = String::new();
    for (id, vcpu) in metrics["vcpus"].as_array().into_iter().flatten().enumerate() {
        let mut causes: Vec<(&str, u64)> = vcpu
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, count)| (name.as_str(), count.as_u64().unwrap_or(0)))
            .collect();
        causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let causes: Vec<_> =
            causes.iter().map(|(name, count)| format!("{count} {}", name.replace('_', " "))).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "ferry: exits of vCPU {id}: {}", crate::agent::printable(&causes.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::guest::Reason;
    use super::*;

    const METRICS: &str = r#"{"vcpus":[{"port_reads":1,"register_writes":7}],"devices":[]}"#;

    #[test]
    fn exits_are_listed_by_cause() {
        let metrics = serde_json::from_str(METRICS).unwrap();
        assert_eq!(exits(&metrics), "ferry: exits of vCPU 0: 7 register writes, 1 port reads\n");
        assert_eq!(exits(&Value::Null), "");
    }

    #[test]
    fn a_report_says_how_it_ended_and_what_was_done() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("report.json");
        let end = End { reason: Reason::TripleFault, detail: "rip 0x1000".into() };
        tell(&Tell { report: Some(path.clone()), ..Tell::default() }, &end, "last words", METRICS);
        let report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(report["reason"], "triple-fault");
        assert_eq!(report["detail"], "rip 0x1000");
        assert_eq!(report["serial"], "last words");
        assert_eq!(report["metrics"]["vcpus"][0]["register_writes"], 7);
    }
}
