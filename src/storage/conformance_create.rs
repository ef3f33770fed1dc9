//! Checks of the three ways to create a file, and of the ways not to.

use bytes::Bytes;

use super::conformance::{Check, Outcome, Trial};
use super::{CreateMode, Depth, ErrorKind, FileKind};

pub(super) const CHECKS: &[(&str, Check)] = &[
    (
        "new appears whole at finish and never overwrites",
        |trial| Box::pin(create_new(trial)),
    ),
    ("replace appears whole in place of the old", |trial| {
        Box::pin(create_replace(trial))
    }),
    ("scratch leaves nothing of the old", |trial| {
        Box::pin(create_scratch(trial))
    }),
    ("create needs a parent and no directory", |trial| {
        Box::pin(create_refused(trial))
    }),
    ("abort leaves nothing visible", |trial| {
        Box::pin(abort(trial))
    }),
    ("a dropped writer leaves only temporary names", |trial| {
        Box::pin(dropped_writer(trial))
    }),
];

/// Modes that publish at `finish`.
const PUBLISHING: [CreateMode; 2] = [CreateMode::New, CreateMode::Replace];
const ALL_MODES: [CreateMode; 3] = [CreateMode::New, CreateMode::Replace, CreateMode::Scratch];

async fn create_new(trial: &Trial<'_>) -> Outcome {
    let (storage, file) = (trial.storage, trial.path("file"));
    let created = storage.create(&file, CreateMode::New).await;
    let mut writer = trial.ok(created, "create")?;
    trial.absent(&file, "before the first write").await?;
    let written = writer.write(Bytes::from_static(b"first ")).await;
    trial.ok(written, "first write")?;
    trial.ok(writer.write(Bytes::new()).await, "empty write")?;
    let written = writer.write(Bytes::from_static(b"second")).await;
    trial.ok(written, "second write")?;
    trial.absent(&file, "before finish").await?;
    only_temporary_names(trial, "before finish").await?;
    trial.ok(writer.finish().await, "finish")?;
    trial
        .content(&file, b"first second", "after finish")
        .await?;

    let again = trial.write(&file, b"other", CreateMode::New).await;
    trial.refused(again, ErrorKind::AlreadyExists, "a second create")?;
    trial
        .content(&file, b"first second", "after the second create")
        .await?;

    // Someone else takes the name between create and finish.
    let taken = trial.path("taken");
    let created = storage.create(&taken, CreateMode::New).await;
    let mut late = trial.ok(created, "create")?;
    trial.ok(late.write(Bytes::from_static(b"late")).await, "write")?;
    trial.put_empty(&taken).await?;
    trial.refused(
        late.finish().await,
        ErrorKind::AlreadyExists,
        "finish on a taken name",
    )?;
    trial
        .content(&taken, b"", "after the refused finish")
        .await?;

    let empty = trial.path("empty");
    let written = trial.write(&empty, b"", CreateMode::New).await;
    trial.ok(written, "create an empty file")?;
    trial.content(&empty, b"", "an empty file").await
}

async fn create_replace(trial: &Trial<'_>) -> Outcome {
    let (storage, file) = (trial.storage, trial.path("file"));
    let written = trial
        .write(&file, b"a long first content", CreateMode::Replace)
        .await;
    trial.ok(written, "replace where nothing was")?;
    let created = storage.create(&file, CreateMode::Replace).await;
    let mut writer = trial.ok(created, "create")?;
    trial.ok(writer.write(Bytes::from_static(b"short")).await, "write")?;
    trial
        .content(&file, b"a long first content", "before finish")
        .await?;
    trial.ok(writer.finish().await, "finish")?;
    trial.content(&file, b"short", "after finish").await?;
    let written = trial.write(&file, b"", CreateMode::Replace).await;
    trial.ok(written, "replace by nothing")?;
    trial
        .content(&file, b"", "after it was replaced by nothing")
        .await
}

async fn create_scratch(trial: &Trial<'_>) -> Outcome {
    let file = trial.path("file");
    for content in [b"a long first content".as_slice(), b"short", b""] {
        let written = trial.write(&file, content, CreateMode::Scratch).await;
        trial.ok(written, "write")?;
        trial.content(&file, content, "after finish").await?;
    }
    Ok(())
}

async fn create_refused(trial: &Trial<'_>) -> Outcome {
    let (dir, file) = (trial.make_dir("dir").await?, trial.path("file"));
    trial.put_empty(&file).await?;
    for mode in ALL_MODES {
        let orphan = trial.path("missing").join("file");
        let refused = trial.write(&orphan, b"x", mode).await;
        trial.refused(
            refused,
            ErrorKind::NotFound,
            &format!("{mode:?} without a parent"),
        )?;
        trial
            .absent(&trial.path("missing"), "the parent is not made by the way")
            .await?;
        let refused = trial.write(&dir, b"x", mode).await;
        trial.refused(
            refused,
            ErrorKind::IsADirectory,
            &format!("{mode:?} on a directory"),
        )?;
        let refused = trial.write(&file.join("entry"), b"x", mode).await;
        trial.refused(
            refused,
            ErrorKind::NotADirectory,
            &format!("{mode:?} below a file"),
        )?;
    }
    trial.content(&file, b"", "after all that").await?;
    trial.same(&trial.stat(&dir).await?.kind, &FileKind::Dir, "kind")
}

async fn abort(trial: &Trial<'_>) -> Outcome {
    let storage = trial.storage;
    for mode in PUBLISHING {
        let file = trial.path(&format!("{mode:?}"));
        let created = storage.create(&file, mode).await;
        let mut writer = trial.ok(created, "create")?;
        trial.ok(writer.write(Bytes::from_static(b"x")).await, "write")?;
        trial.ok(writer.abort().await, "abort")?;
        trial.absent(&file, "after abort").await?;
        let created = storage.create(&file, mode).await;
        trial.ok(
            trial.ok(created, "create")?.abort().await,
            "abort before a write",
        )?;
        trial.absent(&file, "after abort before a write").await?;
    }
    only_temporary_names(trial, "after abort").await?;
    let file = trial.path("old");
    trial.put_empty(&file).await?;
    let created = storage.create(&file, CreateMode::Replace).await;
    let mut writer = trial.ok(created, "create")?;
    trial.ok(writer.write(Bytes::from_static(b"x")).await, "write")?;
    trial.ok(writer.abort().await, "abort")?;
    trial
        .content(&file, b"", "after the abort of a replace")
        .await
}

async fn dropped_writer(trial: &Trial<'_>) -> Outcome {
    let storage = trial.storage;
    for mode in PUBLISHING {
        let file = trial.path(&format!("{mode:?}"));
        let created = storage.create(&file, mode).await;
        let mut writer = trial.ok(created, "create")?;
        trial.ok(writer.write(Bytes::from_static(b"x")).await, "write")?;
        drop(writer);
        trial.absent(&file, "after the writer was dropped").await?;
        only_temporary_names(trial, "after the writer was dropped").await?;
        let written = trial.write(&file, b"y", mode).await;
        trial.ok(written, "write it again")?;
        trial.content(&file, b"y", "written again").await?;
        trial.ok(storage.delete_file(&file).await, "delete")?;
    }
    Ok(())
}

/// Whatever stands in the trial's directory has a name that marks it as temporary.
async fn only_temporary_names(trial: &Trial<'_>, what: &str) -> Outcome {
    let listed = trial.storage.list(&trial.dir, Depth::Tree).await;
    for entry in trial.ok(listed, "list")? {
        let name = entry.path.name();
        let temporary = name.starts_with('.') && name.ends_with(".stepdown-tmp");
        trial.expect(temporary, || format!("{name:?} is visible {what}"))?;
    }
    Ok(())
}
