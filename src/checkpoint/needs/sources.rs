//! `sources/`.

use std::collections::BTreeMap;

use super::{Needs, Role};
use crate::checkpoint::contents::Contents;
use crate::checkpoint::finding::{Code, Finding};
use crate::checkpoint::layout::{PathKind, classify};
use crate::checkpoint::listing::{EntryId, Listed};
use crate::checkpoint::log::SourceOffset;
use crate::checkpoint::target::Target;

/// The log of one source: numbered entries, and other files.
#[derive(Default)]
struct SourceFiles {
    /// Id, whether it is compact, entry.
    log: Vec<(u64, bool, EntryId)>,
    other: Vec<EntryId>,
}

pub(super) fn add_sources(contents: &Contents, target: &Target, needs: &mut Needs) {
    let mut sources: BTreeMap<u32, SourceFiles> = BTreeMap::new();
    for file in contents.listing.below("sources").filter(Listed::is_file) {
        if let PathKind::SourceLog {
            source,
            id,
            is_compact,
        } = classify(file.path)
        {
            let files = sources.entry(source).or_default();
            files.log.push((id, is_compact, file.id));
        } else if let PathKind::SourceFile { source } = classify(file.path) {
            sources.entry(source).or_default().other.push(file.id);
        }
    }
    let offsets = target
        .offset
        .and_then(|batch| contents.offsets.content(batch));
    let reached = |source: u32| -> Option<u64> {
        let name = source.to_string();
        let (_, offset) = offsets?.sources.iter().find(|(id, _)| *id == name)?;
        match offset {
            SourceOffset::File { log_offset } => u64::try_from(*log_offset).ok(),
            SourceOffset::None
            | SourceOffset::Number(_)
            | SourceOffset::RateMicroBatch { .. }
            | SourceOffset::Kafka(_)
            | SourceOffset::Json(_)
            | SourceOffset::Text(_) => None,
        }
    };
    for offset in offsets.iter().flat_map(|log| &log.sources) {
        // A file source without any log entry left.
        if let (Ok(source), SourceOffset::File { .. }) = (offset.0.parse(), &offset.1) {
            sources.entry(source).or_default();
        }
    }
    for (source, mut files) in sources {
        for entry in files.other {
            needs.add(Role::SourceLog, entry);
        }
        files.log.sort_unstable();
        let reached = reached(source);
        if reached.is_none() && files.log.iter().all(|(_, is_compact, _)| !is_compact) {
            for (_, _, entry) in files.log {
                needs.add(Role::SourceLog, entry);
            }
            continue;
        }
        add_file_log(source, &files.log, reached, needs);
    }
}

/// The log of a file source: the newest compact entry and all that come after it.
fn add_file_log(
    source: u32,
    log: &[(u64, bool, EntryId)],
    reached: Option<u64>,
    needs: &mut Needs,
) {
    let compact = log.iter().rfind(|(_, is_compact, _)| *is_compact).copied();
    let first = compact.map_or(0, |(id, ..)| id);
    let mut next = first;
    let mut missing = None;
    for (id, is_compact, entry) in log.iter().copied() {
        if id < first || (id == first && compact.is_some() && !is_compact) {
            continue;
        }
        if missing.is_none() && id != next {
            missing = Some(next);
        }
        next = id.saturating_add(1);
        needs.add(Role::SourceLog, entry);
    }
    if missing.is_none() && reached.is_some_and(|reached| next <= reached) {
        missing = Some(next);
    }
    let Some(id) = missing else {
        return;
    };
    let latest = log.last().map(|(id, ..)| *id);
    needs.findings.push(
        Finding::damage(Code::SourceLogMissing, format!("sources/{source}/{id}"))
            .expected(match reached {
                Some(reached) => format!(
                    "all entries from the newest compact one to {reached}, which the offsets name"
                ),
                None => "all entries from the newest compact one on".to_owned(),
            })
            .found("no such file")
            .spark(match latest {
                Some(latest) if latest > id => format!(
                    "the query fails: .../sources/{source}/{id}.compact doesn't exist (latestId: \
                     {latest}, compactInterval: ...), or batch {id} doesn't exist"
                ),
                _ => format!(
                    "the query fails: batch {} doesn't exist",
                    reached.unwrap_or(id)
                ),
            }),
    );
}
