//! What operators ask for, as files: `requests/<job>.<verb>[.<rollout id>]`. `touch` is enough; the text
//! of a `start` is the version, if it has any.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::RolloutId;
use crate::control::{ControlDir, Document, DocumentError, load_optional, save_replacing};
use crate::model::{JobName, StopId};
use crate::storage::{FileKind, FileStat, StoragePath};

/// How much of a request is read.
const MAX_BYTES: u64 = 4 << 10;

/// Longest version that a request may name.
const MAX_VERSION_CHARS: usize = 200;

/// Ends of names under which a file is written before it has its own: by `hdfs dfs -put`, by editors.
const UNFINISHED: [&str; 5] = ["._COPYING_", "~", ".tmp", ".swp", ".part"];

/// The begin of the names under which requests are kept that were not met.
const REFUSED: &str = "refused.";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Begin a rollout.
    Start,
    /// Go on, or accept what is there.
    Promote,
    /// Wait.
    Hold,
    /// Back.
    Abort,
    /// Back to the version before, after a rollout.
    Rollback,
}

impl Verb {
    /// All of them; a later one wins over an earlier one.
    pub const ALL: [Verb; 5] = [
        Verb::Start,
        Verb::Promote,
        Verb::Hold,
        Verb::Rollback,
        Verb::Abort,
    ];

    /// The word in file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Start => "start",
            Verb::Promote => "promote",
            Verb::Hold => "hold",
            Verb::Abort => "abort",
            Verb::Rollback => "rollback",
        }
    }
}

/// One request file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub verb: Verb,
    /// Of which rollout; none: of the one that is under way.
    pub rollout_id: Option<RolloutId>,
    /// Its file.
    pub path: StoragePath,
    /// Its length and the time of its last change: one that is still being written has others soon.
    pub written: (u64, Timestamp),
}

/// What a file in `requests/` means to one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A request.
    Request(Verb, Option<RolloutId>),
    /// It is of this job, and nobody knows what is asked for.
    Malformed {
        /// What is wrong with it.
        why: String,
    },
    /// It belongs to another job, is being written, or is the `<job>.start.<stop id>` that a touched
    /// marker leaves.
    Other,
}

/// What a file name asks of `job`.
pub fn read_name(name: &str, job: &JobName) -> Named {
    let rest = name.strip_prefix(job.as_str());
    let Some(rest) = rest.and_then(|rest| rest.strip_prefix('.')) else {
        return Named::Other;
    };
    if UNFINISHED.iter().any(|end| rest.ends_with(end)) {
        return Named::Other;
    }
    let (word, id) = match rest.split_once('.') {
        Some((word, id)) => (word, Some(id)),
        None => (rest, None),
    };
    let Some(verb) = Verb::ALL.into_iter().find(|verb| verb.as_str() == word) else {
        let known = Verb::ALL.map(Verb::as_str).join(", ");
        return Named::Malformed {
            why: format!("{word:?} is none of {known}"),
        };
    };
    match (verb, id) {
        (verb, None) => Named::Request(verb, None),
        (Verb::Start, Some(id)) if is_stop_id(id) => Named::Other,
        (Verb::Start | Verb::Rollback, Some(id)) => Named::Malformed {
            why: format!("{word} begins a rollout and names none, not {id:?}"),
        },
        (verb, Some(id)) => match id.parse() {
            Ok(id) => Named::Request(verb, Some(id)),
            Err(_) => Named::Malformed {
                why: format!("{id:?} is no rollout: they are called r-1, r-2 and so on"),
            },
        },
    }
}

/// Whether it is the id of a stop: a slot, and a digest of the attempt.
fn is_stop_id(text: &str) -> bool {
    text.parse::<StopId>().is_ok()
        && text.split_once('-').is_some_and(|(slot, digest)| {
            slot.parse::<crate::model::Slot>().is_ok()
                && digest.len() == 16
                && digest.bytes().all(|digit| digit.is_ascii_hexdigit())
        })
}

/// The version that the text of a request to start names: one line; none where it is empty.
///
/// # Errors
/// Why it names none, as a fragment.
pub fn parse_version(bytes: &[u8]) -> Result<Option<String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "its text is not UTF-8".to_owned())?;
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.lines().count() > 1 {
        return Err("its text has several lines: it is the version, or nothing".to_owned());
    }
    if text.chars().count() > MAX_VERSION_CHARS || text.chars().any(char::is_control) {
        return Err(format!(
            "its text is no version: at most {MAX_VERSION_CHARS} characters that can be shown"
        ));
    }
    Ok(Some(text.to_owned()))
}

/// Reads the version that a request to start names.
///
/// # Errors
/// Storage errors.
pub async fn load_version(
    control: &ControlDir,
    request: &Request,
) -> Result<Result<Option<String>, String>, DocumentError> {
    if request.written.0 > MAX_BYTES {
        return Ok(Err(format!("it is longer than {MAX_BYTES} bytes")));
    }
    let storage = control.storage();
    let bytes = storage.read_small(&request.path, MAX_BYTES).await?;
    Ok(parse_version(&bytes))
}

/// All that lies in `requests/`, for the jobs that are asked after it.
///
/// # Errors
/// Storage errors; `NoControl`.
pub async fn list_files(control: &ControlDir) -> Result<Vec<FileStat>, DocumentError> {
    let mut files = control.list(&control.requests_dir()).await?;
    files.retain(|file| file.kind == FileKind::File);
    Ok(files)
}

/// The requests of `job` among `files`, the one that wins last.
pub fn requests_among(files: &[FileStat], job: &JobName) -> Vec<Request> {
    let mut requests: Vec<Request> = files
        .iter()
        .filter_map(|file| match read_name(file.path.name(), job) {
            Named::Request(verb, rollout_id) => Some(Request {
                verb,
                rollout_id,
                path: file.path.clone(),
                written: (file.len_bytes, file.modified_at),
            }),
            Named::Malformed { .. } | Named::Other => None,
        })
        .collect();
    requests.sort_by_key(|request| Verb::ALL.into_iter().position(|verb| verb == request.verb));
    requests
}

/// The requests that are made of a job now, the one that wins last.
///
/// # Errors
/// Storage errors; `NoControl`.
pub async fn list_requests(
    control: &ControlDir,
    job: &JobName,
) -> Result<Vec<Request>, DocumentError> {
    Ok(requests_among(&list_files(control).await?, job))
}

/// Makes a request.
///
/// # Errors
/// Storage errors; `NoControl`.
pub async fn save_request(
    control: &ControlDir,
    job: &JobName,
    verb: Verb,
    rollout_id: Option<RolloutId>,
) -> Result<StoragePath, DocumentError> {
    control.vouch().await?;
    let id = rollout_id.map_or_else(String::new, |id| format!(".{id}"));
    let path = control
        .requests_dir()
        .join(&format!("{job}.{}{id}", verb.as_str()));
    control.storage().touch(&path).await?;
    Ok(path)
}

/// Takes a request away, since it was taken into the record.
///
/// # Errors
/// Storage errors.
pub async fn drop_request(control: &ControlDir, request: &Request) -> Result<(), DocumentError> {
    control.storage().delete_file(&request.path).await?;
    Ok(())
}

/// A request that was not met, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The name of its file.
    pub request: String,
    /// Why.
    pub why: String,
    /// When.
    pub refused_at: Timestamp,
}

impl Document for Refusal {
    const KIND: &'static str = "refused-request";
}

/// Keeps a request that cannot be met where nobody acts on it, with the reason:
/// `state/<job>/rollouts/refused.<name>`.
///
/// # Errors
/// Storage errors; it can be called again. One of the same name that was kept before makes room.
pub async fn refuse_request(
    control: &ControlDir,
    job: &JobName,
    path: &StoragePath,
    why: &str,
) -> Result<(), DocumentError> {
    tracing::warn!(%job, request = path.name(), "refused: {why}");
    let storage = control.storage();
    let dir = control.state_dir(job).join("rollouts");
    storage.create_dir_all(&dir).await?;
    let refusal = Refusal {
        request: path.name().to_owned(),
        why: why.to_owned(),
        refused_at: Timestamp::now(),
    };
    let to = dir.join(&format!("{REFUSED}{}", path.name()));
    save_replacing(storage.as_ref(), &to, &refusal).await?;
    storage.delete_file(path).await?;
    Ok(())
}

/// The requests of a job that were refused since `since`, oldest first.
///
/// # Errors
/// Storage errors; `NoControl`. What was kept by an older version, without a reason, is passed over.
pub async fn load_refusals(
    control: &ControlDir,
    job: &JobName,
    since: Option<Timestamp>,
) -> Result<Vec<Refusal>, DocumentError> {
    let dir = control.state_dir(job).join("rollouts");
    let mut refusals = Vec::new();
    for file in control.list(&dir).await? {
        if file.kind != FileKind::File || !file.path.name().starts_with(REFUSED) {
            continue;
        }
        let found = load_optional::<Refusal>(control.storage().as_ref(), &file.path).await;
        match found {
            Ok(found) => refusals.extend(found),
            Err(DocumentError::Malformed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    refusals.retain(|refusal| since.is_none_or(|since| refusal.refused_at >= since));
    refusals.sort_by_key(|refusal| refusal.refused_at);
    Ok(refusals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_requests() {
        let job: JobName = "clicks".parse().unwrap();
        let request = Named::Request;
        for (name, expected) in [
            ("clicks.promote", request(Verb::Promote, None)),
            ("clicks.abort.r-7", request(Verb::Abort, Some(RolloutId(7)))),
            ("clicks.start", request(Verb::Start, None)),
            ("clicks.rollback", request(Verb::Rollback, None)),
            // What a marker that was touched during its stop leaves.
            ("clicks.start.blue-0123456789abcdef", Named::Other),
            ("clicks2.promote", Named::Other),
            ("click.promote", Named::Other),
            ("clicks", Named::Other),
            (".clicks.start.swp", Named::Other),
            ("clicks.start._COPYING_", Named::Other),
            ("clicks.start~", Named::Other),
        ] {
            assert_eq!(read_name(name, &job), expected, "{name}");
        }
        for (name, said) in [
            ("clicks.promote.", "no rollout"),
            ("clicks.abort.7", "r-1, r-2"),
            ("clicks.", "none of start, promote"),
            ("clicks.sing", "\"sing\""),
            ("clicks.Start", "none of start, promote"),
            ("clicks.start.r-7", "names none"),
            ("clicks.start.blue-012", "names none"),
        ] {
            let found = read_name(name, &job);
            let is_so = matches!(&found, Named::Malformed { why } if why.contains(said));
            assert!(is_so, "{name}: {found:?}");
        }
    }

    #[test]
    fn versions_of_requests() {
        assert_eq!(parse_version(b""), Ok(None));
        assert_eq!(parse_version(b" \n"), Ok(None));
        assert_eq!(parse_version(b"1.5\n"), Ok(Some("1.5".to_owned())));
        assert!(parse_version(b"1.5\n1.6\n").is_err());
        assert!(parse_version(b"\xff").is_err());
        assert!(parse_version(b"1.\x1b[31m").is_err());
        assert!(parse_version(&[b'1'; 201]).is_err());
    }
}
