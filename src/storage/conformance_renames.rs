//! Checks of renaming: atomic, never over anything, never into a directory.

use super::conformance::{Check, DirRename, Outcome, Trial};
use super::{Depth, DirIdentity, ErrorKind, StoragePath};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("a file is renamed", |trial| Box::pin(file(trial))),
    ("a directory is renamed with all in it", |trial| {
        Box::pin(directory(trial))
    }),
    ("rename needs a source and a parent", |trial| {
        Box::pin(missing(trial))
    }),
    ("rename never overwrites", |trial| {
        Box::pin(never_overwrites(trial))
    }),
    ("a directory does not move into itself", |trial| {
        Box::pin(into_itself(trial))
    }),
];

async fn file(trial: &Trial<'_>) -> Outcome {
    let (storage, from) = (trial.storage, trial.path("from"));
    let to = trial.make_dir("dir").await?.join("to");
    trial.put(&from, b"content").await?;
    let before = trial.stat(&from).await?;
    trial.ok(storage.rename(&from, &to).await, "rename a file")?;
    trial.absent(&from, "after it was renamed").await?;
    trial.content(&to, b"content", "after rename").await?;
    let after = trial.stat(&to).await?;
    trial.same(
        &after.modified_at,
        &before.modified_at,
        "time stamp after rename",
    )
}

async fn directory(trial: &Trial<'_>) -> Outcome {
    let (storage, from) = (trial.storage, trial.make_dir("from").await?);
    let to = trial.make_dir("dir").await?.join("to");
    trial.ok(
        storage.create_dir(&from.join("sub")).await,
        "make a directory",
    )?;
    trial.put_empty(&from.join("sub").join("file")).await?;
    let before = trial.ok(storage.identify_dir(&from).await, "identify")?;
    let renamed = storage.rename(&from, &to).await;
    if trial.capabilities.dir_rename == DirRename::Unsupported {
        trial.refused(renamed, ErrorKind::Unsupported, "rename a directory")?;
        trial.stat(&from.join("sub").join("file")).await?;
        return trial.absent(&to, "after a refused rename").await;
    }
    trial.ok(renamed, "rename a directory")?;
    trial.absent(&from, "after it was renamed").await?;
    trial.stat(&to.join("sub").join("file")).await?;
    let after: DirIdentity = trial.ok(storage.identify_dir(&to).await, "identify")?;
    trial.same(&after, &before, "identity after rename")?;
    let listed = trial.ok(storage.list(&trial.dir, Depth::Tree).await, "list")?;
    trial.same(&listed.len(), &4, "entries after rename")
}

async fn missing(trial: &Trial<'_>) -> Outcome {
    let (storage, file) = (trial.storage, trial.path("file"));
    trial.put_empty(&file).await?;
    let absent = storage
        .rename(&trial.path("missing"), &trial.path("to"))
        .await;
    trial.refused(absent, ErrorKind::NotFound, "rename a missing file")?;
    let orphan = storage
        .rename(&file, &trial.path("missing").join("to"))
        .await;
    trial.refused(orphan, ErrorKind::NotFound, "rename to a missing directory")?;
    trial.stat(&file).await.map(drop)
}

async fn never_overwrites(trial: &Trial<'_>) -> Outcome {
    let storage = trial.storage;
    let (file, other) = (trial.path("file"), trial.path("other"));
    let (dir, empty, full) = (
        trial.make_dir("dir").await?,
        trial.make_dir("empty").await?,
        trial.make_dir("full").await?,
    );
    for made in [&file, &other, &dir.join("mine"), &full.join("entry")] {
        trial.put_empty(made).await?;
    }
    let before = trial.ok(storage.list(&trial.dir, Depth::Tree).await, "list")?;
    for from in [&file, &dir] {
        for to in [&file, &other, &dir, &empty, &full] {
            let refused = storage.rename(from, to).await;
            let what = format!("rename {:?} to {:?}", from.name(), to.name());
            trial.refused(refused, ErrorKind::AlreadyExists, &what)?;
            let after = trial.ok(storage.list(&trial.dir, Depth::Tree).await, "list")?;
            trial.same(&after, &before, &format!("the tree after {what}"))?;
        }
    }
    Ok(())
}

async fn into_itself(trial: &Trial<'_>) -> Outcome {
    let (storage, dir) = (trial.storage, trial.make_dir("dir").await?);
    trial.put_empty(&dir.join("entry")).await?;
    let targets: [StoragePath; 1] = [dir.join("inner")];
    for to in targets {
        let renamed = storage.rename(&dir, &to).await;
        trial.expect(renamed.is_err(), || {
            "a directory moved into itself".to_owned()
        })?;
    }
    trial.stat(&dir.join("entry")).await?;
    trial
        .absent(&dir.join("inner"), "after a refused rename")
        .await
}
