//! `ferry ps --filter`: which containers are listed. Several filters of one key are alternatives, those of different keys must
//! all fit, as in Docker.

use crate::runtime::health::State;
use crate::runtime::state::{Listed, Status};
use crate::runtime::volume::Volume;
use std::collections::BTreeMap;

/// One filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// The beginning of an id.
    Id(String),
    /// A part of a name.
    Name(String),
    /// A status.
    Status(Status),
    /// An exit status.
    Exited(u8),
    /// An image's name, with or without its tag.
    Ancestor(String),
    /// A pod.
    Pod(String),
    /// Whether it is well; none: nobody looks.
    Health(Option<State>),
    /// A label, perhaps with its value.
    Label(String),
    /// A volume by its name, or where the container sees something.
    Volume(String),
}

/// The word for the health of a container that nobody looks at.
const NOBODY_LOOKS: &str = "none";

/// The words for statuses.
const STATUSES: [Status; 6] =
    [Status::Created, Status::Running, Status::Paused, Status::Restarting, Status::Exited, Status::Dead];

impl Filter {
    /// Reads `KEY=VALUE`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let known = || {
            "it is id=, name=, status=, exited=, ancestor=, pod=, label=, volume= or health= and a value"
                .to_owned()
        };
        let (key, value) = text.split_once('=').ok_or_else(known)?;
        let value = value.to_owned();
        Ok(match key {
            "id" => Self::Id(value),
            "name" => Self::Name(value),
            "status" => {
                Self::Status(STATUSES.into_iter().find(|status| status.word() == value).ok_or_else(|| {
                    let words: Vec<_> = STATUSES.iter().map(|status| status.word()).collect();
                    format!("there is no status {value}: {}", words.join(", "))
                })?)
            }
            "exited" => Self::Exited(value.parse().map_err(|_| format!("'{value}' is no exit status"))?),
            "ancestor" => Self::Ancestor(value),
            "pod" => Self::Pod(value),
            "health" if value == NOBODY_LOOKS => Self::Health(None),
            "health" => {
                let state = State::ALL.into_iter().find(|state| state.word() == value);
                Self::Health(Some(state.ok_or("it is starting, healthy, unhealthy or none")?))
            }
            "label" => Self::Label(value),
            "volume" => Self::Volume(value),
            _ => return Err(known()),
        })
    }

    /// Whether it is about containers that have ended, so that these are listed without being asked for.
    pub fn is_about_all(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Exited(_))
    }

    fn fits(&self, one: &Listed) -> bool {
        let record = &one.record;
        match self {
            Self::Id(id) => record.id.starts_with(id),
            Self::Name(name) => record.name.contains(name.trim_start_matches('/')),
            Self::Status(status) => record.status == *status,
            Self::Exited(code) => record.status.is_over() && record.exit_code == Some(*code),
            Self::Ancestor(image) => {
                let whole = record.made.image.as_str();
                // A colon in the last part begins a tag; before that it is a registry's port.
                let tag = whole.rsplit('/').next().and_then(|last| last.find(':').map(|at| last.len() - at));
                whole == image || tag.is_some_and(|length| &whole[..whole.len() - length] == image)
            }
            Self::Pod(pod) => record.pod == *pod,
            Self::Health(state) => record.health.as_ref().map(|health| health.state) == *state,
            Self::Label(label) => is_labelled(&record.made.details.labels, label),
            Self::Volume(wanted) => {
                let is_it = |volume: &Volume| volume.name() == Some(wanted) || volume.target == *wanted;
                record.made.volumes.iter().any(is_it)
            }
        }
    }
}

/// Whether a container is listed with these.
pub fn fit(filters: &[Filter], one: &Listed) -> bool {
    all_keys_fit(filters, |filter| filter.fits(one))
}

/// Whether of the filters of each key, which are the enum's kinds, one fits.
pub fn all_keys_fit<F>(filters: &[F], fits: impl Fn(&F) -> bool) -> bool {
    let same_key = |a: &F, b: &F| std::mem::discriminant(a) == std::mem::discriminant(b);
    filters.iter().all(|filter| filters.iter().filter(|other| same_key(filter, other)).any(&fits))
}

/// Whether something has this label: `NAME`, or `NAME=VALUE`.
pub fn is_labelled(labels: &BTreeMap<String, String>, label: &str) -> bool {
    let (name, value) = label.split_once('=').map_or((label, None), |(name, value)| (name, Some(value)));
    labels.get(name).is_some_and(|there| value.is_none_or(|value| there == value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::record::{Made, Record};
    use crate::runtime::state::Containers;
    use crate::runtime::volume::parse_volume;

    fn listed(change: impl FnOnce(&mut Record)) -> Listed {
        let root = tempfile::tempdir().unwrap();
        let made = Made { image: "registry.example:5000/web:1".into(), ..Made::default() };
        let mut record = Record::new("0123abcd", "shop-web", made);
        record.pod = "shop".into();
        record.made.details.labels.insert("tier".into(), "front".into());
        record.made.volumes = vec![parse_volume("shop:/data").unwrap()];
        change(&mut record);
        let containers = Containers::open(root.path());
        let _entry = containers.create(record).unwrap();
        containers.list().unwrap().remove(0)
    }

    fn fits(filters: &[&str], one: &Listed) -> bool {
        let filters: Vec<_> = filters.iter().map(|filter| Filter::parse(filter).unwrap()).collect();
        fit(&filters, one)
    }

    #[test]
    fn keys_are_alternatives_within_and_conditions_between() {
        let one = listed(|record| record.status = Status::Running);
        for filters in [
            &["id=0123"][..],
            &["name=web"],
            &["name=/shop"],
            &["status=running"],
            &["status=exited", "status=running"],
            &["ancestor=registry.example:5000/web"],
            &["ancestor=registry.example:5000/web:1"],
            &["pod=shop", "name=web"],
            &["label=tier"],
            &["volume=shop"],
            &["volume=x", "volume=/data"],
            &["health=none", "health=healthy"],
            &["label=tier=back", "label=tier=front"],
            &[],
        ] {
            assert!(fits(filters, &one), "{filters:?}");
        }
        for filters in [
            &["id=123"][..],
            &["name=db"],
            &["status=exited"],
            &["pod=shop", "name=db"],
            &["ancestor=registry.example"],
            &["label=tier=back"],
            &["label=colour"],
            &["volume=sho"],
            &["health=unhealthy"],
        ] {
            assert!(!fits(filters, &one), "{filters:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_said() {
        for text in ["", "name", "colour=red", "status=odd", "health=odd", "exited=x"] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
        assert!(Filter::parse("status=dead").unwrap().is_about_all());
    }
}
