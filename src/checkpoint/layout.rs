//! What the names below a checkpoint mean. Pure.

use crate::model::BatchId;

/// The batch that a file in `offsets/` or `commits/` is named after: plain decimal digits within
/// Java's `long`. `None` for temporary files, side files and whatever else lies there.
pub fn batch_of_name(name: &str) -> Option<BatchId> {
    let plain = name == "0" || !name.starts_with('0');
    if !plain || name.is_empty() || !name.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let batch = name.parse::<i64>().ok()?;
    u64::try_from(batch).ok().map(BatchId)
}

/// Whether a name at the top of a directory is a DStreams checkpoint: `checkpoint-<ms>`, or its
/// backup with `.bk`.
pub fn is_dstreams_checkpoint(name: &str) -> bool {
    name.strip_prefix("checkpoint-")
        .map(|rest| rest.strip_suffix(".bk").unwrap_or(rest))
        .is_some_and(|ms| !ms.is_empty() && ms.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_numbers_name_a_batch() {
        for (name, batch) in [
            ("0", Some(0)),
            ("37", Some(37)),
            ("9223372036854775807", Some(i64::MAX.unsigned_abs())),
            ("9223372036854775808", None),
            ("007", None),
            ("+7", None),
            ("-7", None),
            ("", None),
            ("9.compact", None),
            (".9.crc", None),
            (".9.0f0f0f0f-1111-2222-3333-444444444444.tmp", None),
            ("9.bak", None),
            ("٣", None),
        ] {
            assert_eq!(batch_of_name(name), batch.map(BatchId), "{name:?}");
        }
    }

    #[test]
    fn dstreams_names() {
        for (name, is) in [
            ("checkpoint-1795153035000", true),
            ("checkpoint-1795153035000.bk", true),
            ("checkpoint-", false),
            ("checkpoint-.bk", false),
            ("checkpoint-17x", false),
            ("checkpoints", false),
        ] {
            assert_eq!(is_dstreams_checkpoint(name), is, "{name:?}");
        }
    }
}
