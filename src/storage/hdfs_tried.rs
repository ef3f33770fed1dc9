//! What NameNodes said instead of an answer, and which of it to pass on.

use hdfs_native::HdfsError;

use super::hdfs_error::{Asked, Failure, Next};
use crate::storage::ErrorKind;

/// A call that none of the NameNodes answered, or that one refused.
#[derive(Debug)]
pub(super) struct Refusal {
    /// What the last one said, or the most telling of all.
    pub(super) failure: Failure,
    /// Index of the NameNode that said so.
    pub(super) node: usize,
    /// What all of them said, for people; empty if one refused for good.
    pub(super) tried: String,
    /// Whether a change may have been made.
    pub(super) outcome_is_unknown: bool,
}

/// What the NameNodes said in one round.
#[derive(Debug)]
pub(super) struct Tried {
    /// How many were asked.
    pub(super) count: usize,
    worst: Option<(Failure, usize)>,
    words: Vec<String>,
    /// Whether the next second will hardly bring another result from any of them.
    pub(super) is_hopeless: bool,
}

impl Default for Tried {
    fn default() -> Self {
        Self {
            count: 0,
            worst: None,
            words: Vec::new(),
            is_hopeless: true,
        }
    }
}

impl Tried {
    /// Adds what one said.
    pub(super) fn add(&mut self, node: usize, name: &str, failure: Failure) {
        self.count += 1;
        self.words.push(format!("{name}: {failure}"));
        self.is_hopeless &= is_hopeless(&failure);
        if self
            .worst
            .as_ref()
            .is_none_or(|(worst, _)| weight(&failure) > weight(worst))
        {
            self.worst = Some((failure, node));
        }
    }

    /// The most telling failure, with the words of all.
    pub(super) fn into_refusal(self) -> Refusal {
        let (failure, node) = self.worst.unwrap_or((Failure::TimedOut, 0));
        Refusal {
            failure,
            node,
            tried: self.words.join("; "),
            outcome_is_unknown: false,
        }
    }
}

/// Whether the next second will hardly bring another result.
fn is_hopeless(failure: &Failure) -> bool {
    match failure {
        Failure::Client(HdfsError::IOError(_)) => failure.next() == Next::AskAnother,
        Failure::Panicked(_) => true,
        Failure::Client(_) | Failure::TimedOut | Failure::Closed => false,
    }
}

/// How much a failure tells: what a person should look at first.
fn weight(failure: &Failure) -> u8 {
    match failure {
        Failure::Closed => 0,
        _ if failure.kind(Asked::Stat) == ErrorKind::Standby => 1,
        Failure::Client(HdfsError::IOError(_)) => 2,
        Failure::Client(_) => 3,
        Failure::TimedOut => 4,
        Failure::Panicked(_) => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby() -> Failure {
        let class = "org.apache.hadoop.ipc.StandbyException".to_owned();
        Failure::Client(HdfsError::RPCError(class, "standby".to_owned()))
    }

    fn refused() -> Failure {
        Failure::Client(HdfsError::IOError(
            std::io::ErrorKind::ConnectionRefused.into(),
        ))
    }

    #[test]
    fn what_tells_most_is_passed_on() {
        for (failures, expected) in [
            (vec![standby(), standby()], ErrorKind::Standby),
            (vec![standby(), refused()], ErrorKind::Unreachable),
            (vec![refused(), standby()], ErrorKind::Unreachable),
            (vec![Failure::TimedOut, standby()], ErrorKind::TimedOut),
            (vec![refused(), Failure::TimedOut], ErrorKind::TimedOut),
            (vec![standby(), Failure::Closed], ErrorKind::Standby),
        ] {
            let mut tried = Tried::default();
            let count = failures.len();
            for (node, failure) in failures.into_iter().enumerate() {
                tried.add(node, &format!("nn{node}"), failure);
            }
            assert_eq!(tried.count, count);
            let refusal = tried.into_refusal();
            assert_eq!(refusal.failure.kind(Asked::Stat), expected, "{refusal:?}");
            assert!(refusal.tried.contains("nn0: ") && refusal.tried.contains("; nn1: "));
            assert!(!refusal.outcome_is_unknown);
        }
    }

    #[test]
    fn only_refused_connections_are_hopeless() {
        for (failure, expected) in [
            (refused(), true),
            (standby(), false),
            (Failure::TimedOut, false),
            (Failure::Panicked(String::new()), true),
        ] {
            let mut tried = Tried::default();
            tried.add(0, "nn", failure);
            assert_eq!(tried.is_hopeless, expected);
        }
    }
}
