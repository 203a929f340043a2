//! The `--cpu` argument: `host`, with features added and taken away.
//!
//! Grammar: comma-separated items, the first of which may be `host`; every other item is `+NAME`
//! or `-NAME`, or QEMU's `NAME=on` and `NAME=off`. Parsed on the main thread while the
//! configuration is checked; pure. Whether the host can do what is asked is decided by
//! [`super::CpuProfile::new`].

use std::fmt;
use std::str::FromStr;

use super::features;

/// Items accepted in one request: more than there are features is a mistake or an attack.
const MAX_ITEMS: usize = 512;

/// A CPU model request, syntactically good: every name in it exists.
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

/// What is wrong with a CPU request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// An item is neither `host` nor a feature with a sign.
    #[error("`{item}` is not a CPU model or feature: write `host`, `+NAME` or `-NAME`")]
    Syntax {
        /// The item, cut at 64 characters.
        item: String,
    },
    /// More items than there are features.
    #[error("more than {MAX_ITEMS} items in a CPU request")]
    TooMany,
    /// No feature has this name.
    #[error("unknown CPU feature `{name}`{}", did_you_mean(.near))]
    Unknown {
        /// The name, cut at 64 characters.
        name: String,
        /// Names that resemble it, the nearest first.
        near: Vec<&'static str>,
    },
    /// The same feature is asked both on and off.
    #[error("CPU feature `{name}` is asked both on and off")]
    Contradiction {
        /// The feature.
        name: &'static str,
    },
    /// The host's KVM does not offer the feature.
    #[error("CPU feature `{name}` is not offered by this host's KVM; leave `+{name}` out")]
    NotOnHost {
        /// The feature.
        name: &'static str,
    },
    /// A feature is asked on while one it cannot be without is asked off.
    #[error("CPU feature `{name}` cannot be without `{needs}`, which is asked off")]
    Needs {
        /// The feature asked on.
        name: &'static str,
        /// The feature asked off.
        needs: &'static str,
    },
    /// KVM reported no leaf 0 or 1.
    #[error("KVM's list of supported CPUID entries has no leaf {leaf:#x}")]
    MissingLeaf {
        /// The leaf.
        leaf: u32,
    },
}

fn did_you_mean(near: &[&'static str]) -> String {
    if near.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", near.join(", "))
    }
}

impl CpuRequest {
    /// The features asked on or off, each once, in the order given.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Parses the argument.
    ///
    /// # Errors
    /// Every problem found, not only the first.
    pub fn parse(text: &str) -> Result<Self, Vec<CpuError>> {
        let mut request = Self::default();
        let mut problems = Vec::new();
        for (position, item) in text.split(',').map(str::trim).enumerate() {
            if position >= MAX_ITEMS {
                problems.push(CpuError::TooMany);
                break;
            }
            if position == 0 && item == "host" {
                continue;
            }
            match Change::parse(item) {
                Ok(change) => {
                    match request
                        .changes
                        .iter()
                        .find(|known| known.name == change.name)
                    {
                        None => request.changes.push(change),
                        Some(known) if known.on == change.on => {}
                        Some(known) => {
                            problems.push(CpuError::Contradiction { name: known.name });
                        }
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() {
            Ok(request)
        } else {
            Err(problems)
        }
    }
}

impl Change {
    fn parse(item: &str) -> Result<Self, CpuError> {
        let signed = match item.split_at_checked(1) {
            Some(("+", name)) => Some((name, true)),
            Some(("-", name)) => Some((name, false)),
            _ => None,
        };
        let assigned = || match item.split_once('=') {
            Some((name, "on")) => Some((name, true)),
            Some((name, "off")) => Some((name, false)),
            _ => None,
        };
        let (name, on) = signed
            .or_else(assigned)
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| CpuError::Syntax { item: shown(item) })?;
        features::canonical(name)
            .map(|name| Self { name, on })
            .ok_or_else(|| CpuError::Unknown {
                name: shown(name),
                near: features::near(name),
            })
    }
}

/// The text as an error shows it: at most 64 characters, so that a message stays a line.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

impl FromStr for CpuRequest {
    type Err = Vec<CpuError>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for CpuRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("host")?;
        for Change { name, on } in &self.changes {
            write!(f, ",{}{name}", if *on { '+' } else { '-' })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_requests_round_trip() {
        for (text, shown) in [
            ("host", "host"),
            ("+avx2,-x2apic", "host,+avx2,-x2apic"),
            ("host, +sse4_1, avx=off, avx2=on", "host,+sse4.1,-avx,+avx2"),
            ("+avx2,+AVX2", "host,+avx2"),
        ] {
            let request = CpuRequest::parse(text).unwrap();
            assert_eq!(request.to_string(), shown);
            assert_eq!(shown.parse::<CpuRequest>().unwrap(), request);
        }
    }

    #[test]
    fn every_problem_is_reported() {
        let problems = CpuRequest::parse("+avx22,avx,+,-avx,+avx,é").unwrap_err();
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 5, "{texts:?}");
        assert!(texts[0].starts_with("unknown CPU feature `avx22`; did you mean avx2"));
        assert!(texts[1].contains("`avx` is not a CPU model"));
        assert!(texts[2].contains("`+` is not a CPU model"));
        assert_eq!(texts[3], "CPU feature `avx` is asked both on and off");
        assert!(texts[4].contains("`é` is not"));
    }

    #[test]
    fn hostile_length_is_refused_and_not_echoed() {
        let problems = CpuRequest::parse(&"+x,".repeat(100_000)).unwrap_err();
        assert_eq!(problems.len(), MAX_ITEMS + 1);
        let problems = CpuRequest::parse(&format!("+{}", "y".repeat(100_000))).unwrap_err();
        assert!(problems[0].to_string().len() < 200);
    }
}
