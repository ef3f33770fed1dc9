//! What operators ask for, as files: `requests/<job>.<verb>[.<rollout id>]`. `touch` is enough.

use super::record::RolloutId;
use crate::control::{ControlDir, DocumentError};
use crate::model::JobName;
use crate::storage::{ErrorKind, StoragePath};

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
}

/// The request that a file name makes of `job`; `None` for everything else, such as the
/// `<job>.start.<stop id>` that a touched marker leaves.
pub fn parse_name(name: &str, job: &JobName) -> Option<(Verb, Option<RolloutId>)> {
    let rest = name.strip_prefix(job.as_str())?.strip_prefix('.')?;
    let (word, id) = match rest.split_once('.') {
        Some((word, id)) => (word, Some(id)),
        None => (rest, None),
    };
    let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == word)?;
    match id {
        None => Some((verb, None)),
        Some(id) => Some((verb, Some(id.parse().ok()?))),
    }
}

/// The requests that are made of a job now, the one that wins last.
///
/// # Errors
/// Storage errors; `NoControl`.
pub async fn list_requests(
    control: &ControlDir,
    job: &JobName,
) -> Result<Vec<Request>, DocumentError> {
    let dir = control.requests_dir();
    let entries = control.list(&dir).await?;
    let mut requests: Vec<Request> = entries
        .into_iter()
        .filter_map(|entry| {
            let (verb, rollout_id) = parse_name(entry.path.name(), job)?;
            Some(Request {
                verb,
                rollout_id,
                path: entry.path,
            })
        })
        .collect();
    requests.sort_by_key(|request| Verb::ALL.into_iter().position(|verb| verb == request.verb));
    Ok(requests)
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

/// Keeps a request that cannot be met where nobody acts on it: `state/<job>/rollouts/refused.<name>`.
///
/// # Errors
/// Storage errors; one of the same name that was kept before is no error.
pub async fn refuse_request(
    control: &ControlDir,
    job: &JobName,
    request: &Request,
) -> Result<(), DocumentError> {
    let storage = control.storage();
    let dir = control.state_dir(job).join("rollouts");
    storage.create_dir_all(&dir).await?;
    let to = dir.join(&format!("refused.{}", request.path.name()));
    storage.delete_file(&to).await?;
    match storage.rename(&request.path, &to).await {
        Ok(()) => Ok(()),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_requests() {
        let job: JobName = "clicks".parse().unwrap();
        for (name, expected) in [
            ("clicks.promote", Some((Verb::Promote, None))),
            ("clicks.abort.r-7", Some((Verb::Abort, Some(RolloutId(7))))),
            ("clicks.start", Some((Verb::Start, None))),
            // What a marker that was touched during its stop leaves.
            ("clicks.start.blue-0123456789abcdef", None),
            ("clicks2.promote", None),
            ("click.promote", None),
            ("clicks.promote.", None),
            ("clicks", None),
            ("clicks.", None),
            ("clicks.sing", None),
        ] {
            assert_eq!(parse_name(name, &job), expected, "{name}");
        }
    }
}
