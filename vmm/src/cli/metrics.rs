//! `ferry stats --metrics`: what VMs have done so far, as Prometheus text or as JSON.
//!
//! The text is that of Prometheus's "Exposition formats", version 0.0.4.

use super::{Fault, print};
use crate::runtime::monitor::client::ask;
use crate::runtime::monitor::protocol::Request;
use crate::runtime::state::Listed;
use serde_json::{Value, json};
use std::fmt::Write;

/// Shows the counters of these containers' VMs.
pub(super) fn show(containers: &[Listed], as_json: bool) -> Result<u8, Fault> {
    let mut all = Vec::new();
    for container in containers {
        let told = ask(container, &Request::Metrics).map_err(Fault::new)?.told().unwrap_or_default();
        let counters: Value = serde_json::from_str(&told)
            .map_err(|error| Fault::new(format_args!("container {}: {error}", container.record.name)))?;
        all.push((container.record.id.as_str(), container.record.name.as_str(), counters));
    }
    match as_json {
        true => {
            let line = |(id, name, metrics): &(&str, &str, Value)| {
                format!("{}\n", json!({"ID": id, "Name": name, "metrics": metrics}))
            };
            print(&all.iter().map(line).collect::<String>())
        }
        false => print(&prometheus(&all)),
    }
}

/// A word of a VM's process without what would end a label: it is believed no further than its guest.
fn plain(word: &str) -> String {
    word.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect()
}

/// The families of counters that devices have.
const OF_DEVICES: [(&str, &str); 3] = [
    ("kicks", "Kicks served; one may stand for many requests."),
    ("requests", "Requests given back to the driver."),
    ("interrupts", "Interrupts raised."),
];

/// All of a family's samples stand together, as the format asks.
fn prometheus(all: &[(&str, &str, Value)]) -> String {
    let mut text = String::new();
    let mut family = |name: &str, help: &str, samples: &mut dyn Iterator<Item = (String, u64)>| {
        // Writing to a string cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} counter\n");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{{{labels}}} {value}");
        }
    };
    let container = |(id, name, _): &(&str, &str, Value)| format!("id=\"{id}\",name=\"{name}\"");
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut exits = Vec::new();
    for one in all {
        for (number, vcpu) in list(&one.2, "vcpus").into_iter().enumerate() {
            for (cause, count) in vcpu.as_object().into_iter().flatten() {
                let labels = format!("{},vcpu=\"{number}\",cause=\"{}\"", container(one), plain(cause));
                exits.push((labels, count.as_u64().unwrap_or(0)));
            }
        }
    }
    family("ferry_vcpu_exits_total", "Times that a vCPU left the guest.", &mut exits.into_iter());
    for (counter, help) in OF_DEVICES {
        let mut samples = Vec::new();
        for one in all {
            for (slot, device) in list(&one.2, "devices").iter().enumerate() {
                let kind = plain(device["device"].as_str().unwrap_or("other"));
                let labels = format!("{},slot=\"{slot}\",device=\"{kind}\"", container(one));
                samples.push((labels, device[counter].as_u64().unwrap_or(0)));
            }
        }
        family(&format!("ferry_device_{counter}_total"), help, &mut samples.into_iter());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stand_together_with_one_sample_for_each_vcpu_and_device() {
        let of = |reads: u64| {
            json!({"vcpus": [{"port_reads": reads}, {"port_reads": 0}],
                   "devices": [{"device": "blk", "kicks": 3, "requests": 5, "interrupts": 2}]})
        };
        let text = prometheus(&[("1a", "web", of(7)), ("2b", "db", of(8))]);
        assert!(text.starts_with("# HELP ferry_vcpu_exits_total "), "{text}");
        let exits: Vec<_> = text.lines().filter(|line| line.starts_with("ferry_vcpu_exits_total")).collect();
        assert_eq!(
            exits[..2],
            [
                r#"ferry_vcpu_exits_total{id="1a",name="web",vcpu="0",cause="port_reads"} 7"#,
                r#"ferry_vcpu_exits_total{id="1a",name="web",vcpu="1",cause="port_reads"} 0"#,
            ]
        );
        assert_eq!(exits.len(), 4);
        let requests = r#"ferry_device_requests_total{id="2b",name="db",slot="0",device="blk"} 5"#;
        assert!(text.contains(requests), "{text}");
        assert_eq!(text.matches("# TYPE ").count(), 4);
        for family in ["ferry_vcpu_exits_total", "ferry_device_kicks_total"] {
            let of_family = |line: &&str| line.starts_with(family);
            let mut groups: Vec<bool> = text.lines().map(|line| of_family(&line)).collect();
            groups.dedup();
            assert_eq!(groups.iter().filter(|is| **is).count(), 1, "{family} is not together");
        }
    }

    #[test]
    fn what_a_vm_says_is_believed_no_further_than_its_shape() {
        assert!(prometheus(&[("1", "n", Value::Null)]).contains("# TYPE"));
        assert!(
            prometheus(&[("1", "n", json!({"vcpus": 3, "devices": [7]}))]).contains("device=\"other\"} 0")
        );
        let hostile = prometheus(&[("1", "n", json!({"devices": [{"device": "a\"} 1\nb"}]}))]);
        assert!(hostile.contains("device=\"a1b\"} 0"), "{hostile}");
    }
}
