//! What `cpus.features` asks for, in this machine's own names.
//!
//! The configuration's check took the text apart; here its names are looked up, once, on the main
//! thread before anything is built, and what contradicts itself is found. Pure. Whether the host
//! can do what is asked is decided by [`super::CpuProfile::new`].

use api_socket::config::FeatureChange;

use super::features;

/// Features asked on and off, each once, in the order given: every name exists, and none is asked
/// on without what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuRequest {
    changes: Vec<Change>,
}

/// One feature asked on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The feature's canonical name.
    pub name: &'static str,
    /// On or off.
    pub on: bool,
}

/// What is wrong with a request, on any host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestError {
    /// No feature has this name.
    Unknown {
        /// The name as given.
        name: String,
        /// Names that resemble it, the nearest first.
        near: Vec<&'static str>,
    },
    /// Two of the names mean one feature.
    Twice {
        /// The feature.
        feature: &'static str,
    },
    /// A feature is asked on while one it cannot be without is asked off.
    Needs {
        /// The feature asked on.
        name: &'static str,
        /// The feature asked off.
        needs: &'static str,
    },
}

impl CpuRequest {
    /// Looks the names up.
    ///
    /// # Errors
    /// Every problem found, not only the first.
    pub fn new(wanted: &[FeatureChange]) -> Result<Self, Vec<RequestError>> {
        let mut changes: Vec<Change> = Vec::with_capacity(wanted.len());
        let mut problems = Vec::new();
        for change in wanted {
            let name = change.name();
            let on = matches!(change, FeatureChange::Add(_));
            match features::canonical(name) {
                None => problems.push(RequestError::Unknown {
                    name: name.to_owned(),
                    near: features::near(name),
                }),
                Some(feature) if changes.iter().any(|known| known.name == feature) => {
                    problems.push(RequestError::Twice { feature });
                }
                Some(feature) => changes.push(Change { name: feature, on }),
            }
        }
        let on = changes.iter().filter(|change| change.on);
        problems.extend(on.filter_map(|change| contradiction(change.name, &changes)));
        if problems.is_empty() {
            Ok(Self { changes })
        } else {
            Err(problems)
        }
    }

    /// The features asked on or off.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

/// Whether something that the feature `name` needs, at once or by way of others, is asked off.
fn contradiction(name: &'static str, changes: &[Change]) -> Option<RequestError> {
    let off = |feature| changes.iter().any(|one| one.name == feature && !one.on);
    let mut grounds = features::needed_by(name);
    // Grows while it is walked, by each feature at most once.
    let mut at = 0;
    while let Some(&needs) = grounds.get(at) {
        if off(needs) {
            return Some(RequestError::Needs { name, needs });
        }
        let further = features::needed_by(needs).into_iter();
        let new: Vec<_> = further.filter(|one| !grounds.contains(one)).collect();
        grounds.extend(new);
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(wanted: &[&str]) -> Result<CpuRequest, Vec<RequestError>> {
        let changes: Vec<_> = wanted.iter().map(|item| change(item)).collect();
        CpuRequest::new(&changes)
    }

    fn change(item: &str) -> FeatureChange {
        let name = item[1..].to_owned();
        if item.starts_with('+') {
            FeatureChange::Add(name)
        } else {
            FeatureChange::Remove(name)
        }
    }

    #[test]
    fn names_become_canonical() {
        let names = request(&["+sse4_1", "-x2apic"]).unwrap();
        let change = |name, on| Change { name, on };
        assert_eq!(
            names.changes(),
            [change("sse4.1", true), change("x2apic", false)]
        );
        assert_eq!(request(&[]), Ok(CpuRequest::default()));
    }

    #[test]
    fn every_problem_is_reported() {
        let problems = request(&["+avx22", "-sse4.1", "+sse4_1", "+aes", "-sse2"]).unwrap_err();
        assert!(
            matches!(&problems[0], RequestError::Unknown { name, near }
                if name == "avx22" && near.first() == Some(&"avx2")),
            "{problems:?}"
        );
        let (name, needs) = ("aes", "sse2");
        assert_eq!(
            problems[1..],
            [
                RequestError::Twice { feature: "sse4.1" },
                RequestError::Needs { name, needs }
            ]
        );
    }

    /// Asked on, a feature is there or nothing starts: it must not go with what it rests on.
    #[test]
    fn what_a_feature_needs_by_way_of_others_cannot_be_off() {
        let (name, needs) = ("avx512bw", "xsave");
        assert_eq!(
            request(&["+avx512bw", "-xsave"]),
            Err(vec![RequestError::Needs { name, needs }])
        );
        let (name, needs) = ("pdcm", "pmu");
        assert_eq!(
            request(&["+pdcm", "-pmu"]),
            Err(vec![RequestError::Needs { name, needs }])
        );
    }
}
