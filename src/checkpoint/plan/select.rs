//! For each file of the source: copy it, or why not.

use std::collections::HashMap;

use super::{LeftOut, Plan, PlannedFile, Scope};
use crate::checkpoint::contents::Contents;
use crate::checkpoint::layout::{PathKind, StateFile, classify};
use crate::checkpoint::listing::{EntryId, FileKind, Listed};
use crate::checkpoint::needs::{Needs, Role};
use crate::model::BatchId;

/// What becomes of a file.
enum Fate {
    Copied(Option<Role>),
    Unknown,
    LeftOut(LeftOut),
}

pub(super) fn select_files(contents: &Contents, needs: &Needs, plan: &mut Plan) {
    let needed: HashMap<EntryId, Role> = needs
        .files
        .iter()
        .map(|file| (file.entry, file.role))
        .collect();
    for file in contents.listing.iter().filter(|e| e.kind != FileKind::Dir) {
        let fate = if file.kind == FileKind::File {
            fate_of(contents, plan, &needed, &file)
        } else {
            Fate::LeftOut(LeftOut::NotAFile)
        };
        match fate {
            Fate::Copied(role) => plan.files.push(PlannedFile::Copy {
                entry: file.id,
                role,
            }),
            Fate::Unknown => {
                plan.unknown.push(file.id);
                plan.files.push(PlannedFile::Copy {
                    entry: file.id,
                    role: None,
                });
            }
            Fate::LeftOut(why) => plan.left_out.entry(why).or_default().add(file.len_bytes),
        }
    }
}

fn fate_of(
    contents: &Contents,
    plan: &Plan,
    needed: &HashMap<EntryId, Role>,
    file: &Listed<'_>,
) -> Fate {
    if let Some(role) = needed.get(&file.id) {
        return Fate::Copied(Some(*role));
    }
    let old = |why| match plan.scope {
        Scope::Minimal => Fate::LeftOut(why),
        Scope::Full => Fate::Copied(None),
    };
    let target = &plan.target;
    let by_batch = |batch: BatchId, last: Option<BatchId>| {
        if Some(batch) > last {
            Fate::LeftOut(LeftOut::LaterBatch)
        } else {
            old(LeftOut::OlderBatch)
        }
    };
    match classify(file.path) {
        PathKind::Offset(batch) => by_batch(batch, target.offset),
        PathKind::Commit(batch) => by_batch(batch, target.commit),
        PathKind::SourceLog { .. } | PathKind::SourceFile { .. } => old(LeftOut::CompactedLog),
        PathKind::State(_) | PathKind::OperatorMetadata { .. } | PathKind::StateSchema { .. }
            if target.state_version == 0 =>
        {
            Fate::LeftOut(LeftOut::LaterState)
        }
        PathKind::State(path) => match path.file {
            StateFile::Version { version, .. } if version > target.state_version => {
                Fate::LeftOut(LeftOut::LaterState)
            }
            StateFile::Version { .. } | StateFile::Schema => old(LeftOut::OlderState),
            StateFile::Sst(_) | StateFile::RocksLog(_) => old(LeftOut::UnusedData),
            StateFile::Misnamed => Fate::LeftOut(LeftOut::Misnamed),
        },
        PathKind::OperatorMetadata { .. } | PathKind::StateSchema { .. } => {
            Fate::LeftOut(LeftOut::LaterSchema)
        }
        PathKind::SparkChecksum => {
            let main = file.path.strip_suffix(".crc").unwrap_or(file.path);
            match contents.listing.find(main) {
                Some(main) => match fate_of(contents, plan, needed, &main) {
                    // Rewritten content would not match.
                    Fate::Copied(Some(Role::Schema)) | Fate::Unknown | Fate::LeftOut(_) => {
                        Fate::LeftOut(LeftOut::SideFile)
                    }
                    Fate::Copied(Some(_)) => Fate::Copied(Some(Role::SideFile)),
                    Fate::Copied(None) => Fate::Copied(None),
                },
                None => Fate::LeftOut(LeftOut::SideFile),
            }
        }
        PathKind::Temporary => Fate::LeftOut(LeftOut::Temporary),
        PathKind::HadoopChecksum => Fate::LeftOut(LeftOut::HadoopChecksum),
        PathKind::Manifest => Fate::LeftOut(LeftOut::Manifest),
        PathKind::Metadata | PathKind::Foreign => Fate::Unknown,
    }
}
