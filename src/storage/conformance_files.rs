//! Checks of one file: what a stat says, reading, and the three ways to create.

use bytes::Bytes;
use futures::stream::StreamExt;

use super::conformance::{BelowFile, Check, Outcome, Trial};
use super::{Attributes, CreateMode, ErrorKind, FileKind, Removal, StoragePath, Touched};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("stat shows an entry or not found", |trial| {
        Box::pin(stat(trial))
    }),
    ("read small takes no more than it may", |trial| {
        Box::pin(read_small(trial))
    }),
    ("a stream gives the whole content in pieces", |trial| {
        Box::pin(open_read(trial))
    }),
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
    ("touch keeps the content and tells storage time", |trial| {
        Box::pin(touch(trial))
    }),
    ("delete says deleted or absent", |trial| {
        Box::pin(delete_file(trial))
    }),
    ("attributes are set as asked", |trial| {
        Box::pin(attributes(trial))
    }),
    ("every valid name is kept", |trial| Box::pin(names(trial))),
    ("a large file passes whole", |trial| {
        Box::pin(large_file(trial))
    }),
];

/// Modes that publish at `finish`.
const PUBLISHING: [CreateMode; 2] = [CreateMode::New, CreateMode::Replace];
const ALL_MODES: [CreateMode; 3] = [CreateMode::New, CreateMode::Replace, CreateMode::Scratch];

async fn stat(trial: &Trial<'_>) -> Outcome {
    let (file, dir) = (trial.path("file"), trial.make_dir("dir").await?);
    trial.absent(&file, "before it is made").await?;
    trial
        .absent(
            &trial.path("missing").join("file"),
            "below a missing directory",
        )
        .await?;
    trial.put(&file, b"twelve bytes").await?;
    let shown = trial.stat(&file).await?;
    trial.same(&shown.path, &file, "path")?;
    trial.same(&shown.kind, &FileKind::File, "kind of a file")?;
    trial.same(&shown.len_bytes, &12, "length of a file")?;
    let shown = trial.stat(&dir).await?;
    trial.same(&shown.path, &dir, "path")?;
    trial.same(&shown.kind, &FileKind::Dir, "kind of a directory")?;
    trial.same(&shown.len_bytes, &0, "length of a directory")?;
    let below = trial.storage.stat(&file.join("entry")).await;
    trial.refused(below, trial.below_file(), "stat below a file")?;
    let root = trial.stat(&StoragePath::root()).await?;
    trial.same(&root.kind, &FileKind::Dir, "kind of the root")?;
    let epoch = trial.storage.epoch();
    trial.expect(trial.storage.epoch() >= epoch, || {
        "the epoch shrinks".to_owned()
    })
}

async fn read_small(trial: &Trial<'_>) -> Outcome {
    let (storage, dir) = (trial.storage, trial.make_dir("dir").await?);
    let (file, empty) = (trial.path("file"), trial.path("empty"));
    trial.put(&file, b"0123456789").await?;
    trial.put_empty(&empty).await?;
    trial
        .content(&file, b"0123456789", "at exactly the limit")
        .await?;
    trial.content(&empty, b"", "empty, at a limit of 0").await?;
    let more = trial.ok(
        storage.read_small(&file, u64::MAX).await,
        "read without a limit",
    )?;
    trial.same(&more.as_ref(), &b"0123456789".as_slice(), "content")?;
    for limit in [9, 0] {
        let read = storage.read_small(&file, limit).await;
        trial.refused(
            read,
            ErrorKind::TooLarge,
            "read of 10 bytes with a lower limit",
        )?;
    }
    let read = storage.read_small(&trial.path("missing"), 10).await;
    trial.refused(read, ErrorKind::NotFound, "read of a missing file")?;
    let read = storage.read_small(&dir, 10).await;
    trial.refused(read, ErrorKind::IsADirectory, "read of a directory")?;
    let read = storage.read_small(&file.join("entry"), 10).await;
    trial.refused(read, trial.below_file(), "read below a file")
}

async fn open_read(trial: &Trial<'_>) -> Outcome {
    let (storage, dir) = (trial.storage, trial.make_dir("dir").await?);
    let missing = storage.open_read(&trial.path("missing")).await.map(drop);
    trial.refused(missing, ErrorKind::NotFound, "stream of a missing file")?;
    let directory = storage.open_read(&dir).await.map(drop);
    trial.refused(directory, ErrorKind::IsADirectory, "stream of a directory")?;
    let empty = trial.path("empty");
    trial.put_empty(&empty).await?;
    trial.content(&empty, b"", "an empty file").await
}

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

async fn touch(trial: &Trial<'_>) -> Outcome {
    let (storage, dir) = (trial.storage, trial.make_dir("dir").await?);
    let (file, full) = (trial.path("file"), trial.path("full"));
    let touched = trial.ok(storage.touch(&file).await, "touch")?;
    trial.same(&touched, &Touched::Created, "touch of a missing file")?;
    trial.content(&file, b"", "after touch").await?;
    let created_at = trial.stat(&file).await?.modified_at;
    let touched = trial.ok(storage.touch(&file).await, "touch")?;
    trial.same(&touched, &Touched::Refreshed, "touch of a file")?;

    trial.put(&full, b"content").await?;
    let written_at = trial.stat(&full).await?.modified_at;
    trial.expect(written_at >= created_at, || {
        format!("a file written later is older: {written_at} before {created_at}")
    })?;
    trial.await_later(written_at).await?;
    let touched = trial.ok(storage.touch(&full).await, "touch")?;
    trial.same(
        &touched,
        &Touched::Refreshed,
        "touch of a file with content",
    )?;
    trial.content(&full, b"content", "after touch").await?;
    let touched_at = trial.stat(&full).await?.modified_at;
    trial.expect(touched_at > written_at, || {
        format!("touch left the time at {written_at}: {touched_at}")
    })?;

    let orphan = storage.touch(&trial.path("missing").join("file")).await;
    trial.refused(orphan, ErrorKind::NotFound, "touch without a parent")?;
    trial
        .absent(&trial.path("missing"), "the parent is not made by the way")
        .await?;
    trial.refused(
        storage.touch(&dir).await,
        ErrorKind::IsADirectory,
        "touch of a directory",
    )?;
    let below = storage.touch(&full.join("entry")).await;
    trial.refused(below, ErrorKind::NotADirectory, "touch below a file")
}

async fn delete_file(trial: &Trial<'_>) -> Outcome {
    let (storage, dir) = (trial.storage, trial.make_dir("dir").await?);
    let (file, full_dir) = (trial.path("file"), trial.make_dir("full dir").await?);
    trial.put_empty(&file).await?;
    trial.put_empty(&full_dir.join("entry")).await?;
    let below = storage.delete_file(&file.join("entry")).await;
    match trial.capabilities.below_file {
        BelowFile::NotADirectory => {
            trial.refused(below, ErrorKind::NotADirectory, "delete below a file")?;
        }
        BelowFile::ReadsAsAbsent => {
            let removal = trial.ok(below, "delete below a file")?;
            trial.same(&removal, &Removal::Absent, "delete below a file")?;
        }
    }
    for expected in [Removal::Deleted, Removal::Absent] {
        let removal = trial.ok(storage.delete_file(&file).await, "delete")?;
        trial.same(&removal, &expected, "delete")?;
        trial.absent(&file, "after delete").await?;
    }
    let orphan = storage
        .delete_file(&trial.path("missing").join("file"))
        .await;
    let removal = trial.ok(orphan, "delete without a parent")?;
    trial.same(&removal, &Removal::Absent, "delete without a parent")?;
    for dir in [dir, full_dir.clone()] {
        let refused = storage.delete_file(&dir).await;
        trial.refused(
            refused,
            ErrorKind::IsADirectory,
            "delete of a directory as a file",
        )?;
        trial.stat(&dir).await?;
    }
    trial.stat(&full_dir.join("entry")).await.map(drop)
}

async fn attributes(trial: &Trial<'_>) -> Outcome {
    let (storage, file) = (trial.storage, trial.path("file"));
    trial.put_empty(&file).await?;
    let dir = trial.make_dir("dir").await?;
    for (path, mode) in [
        (&file, 0o640),
        (&file, 0o444),
        (&dir, 0o750),
        (&dir, 0o1777),
    ] {
        let wanted = Attributes {
            mode: Some(mode),
            ..Attributes::default()
        };
        let before = trial.stat(path).await?;
        trial.ok(storage.set_attributes(path, &wanted).await, "set the mode")?;
        let after = trial.stat(path).await?;
        trial.same(&after.mode, &Some(mode), "mode")?;
        trial.same(&after.owner, &before.owner, "owner")?;
        trial.same(&after.group, &before.group, "group")?;
    }
    // What an entry has already it may be given by everyone who owns it.
    let before = trial.stat(&file).await?;
    let same = Attributes {
        mode: None,
        owner: before.owner.clone(),
        group: before.group.clone(),
    };
    trial.ok(
        storage.set_attributes(&file, &same).await,
        "set the owner it has",
    )?;
    trial.same(&trial.stat(&file).await?.mode, &before.mode, "mode")?;
    let nothing = storage.set_attributes(&file, &Attributes::default()).await;
    trial.ok(nothing, "set nothing")?;
    trial.same(&trial.stat(&file).await?, &before, "stat")?;
    let missing = storage.set_attributes(&trial.path("missing"), &same).await;
    trial.refused(missing, ErrorKind::NotFound, "attributes of a missing file")
}

async fn names(trial: &Trial<'_>) -> Outcome {
    let longest = trial.capabilities.name_bytes;
    let mut wanted = vec![
        "with blanks  inside".to_owned(),
        " blank first".to_owned(),
        "blank last ".to_owned(),
        "größe-日本語-🙂".to_owned(),
        // The same to look at, composed and not: two names.
        "\u{e9}".to_owned(),
        "e\u{301}".to_owned(),
        "100%25%2F%zz".to_owned(),
        "a+b=c&d?e#f".to_owned(),
        "*[a-z]{1,2}".to_owned(),
        "quote'double\"back\\slash".to_owned(),
        "$HOME`id`;|<>!^~".to_owned(),
        "...".to_owned(),
        ".hidden".to_owned(),
        "-rf".to_owned(),
        "UPPER".to_owned(),
        "upper".to_owned(),
        "x".repeat(longest),
        "y".repeat(longest - 1),
        "é".repeat(longest / 2),
    ];
    for name in &wanted {
        let file = trial.path(name);
        let written = trial.write(&file, b"", CreateMode::New).await;
        trial.ok(written, &format!("create {name:?}"))?;
        let again = trial.write(&file, b"", CreateMode::Replace).await;
        trial.ok(again, &format!("replace {name:?}"))?;
        trial.same(&trial.stat(&file).await?.path, &file, "path")?;
    }
    wanted.sort();
    let listed = trial.storage.list(&trial.dir, super::Depth::Children).await;
    let listed = trial.ok(listed, "list")?;
    let found: Vec<&str> = listed.iter().map(|entry| entry.path.name()).collect();
    let expected: Vec<&str> = wanted.iter().map(String::as_str).collect();
    trial.same(&found, &expected, "names in the listing")?;
    for name in &wanted {
        let removal = trial.ok(trial.storage.delete_file(&trial.path(name)).await, "delete")?;
        trial.same(&removal, &Removal::Deleted, &format!("delete {name:?}"))?;
    }
    Ok(())
}

async fn large_file(trial: &Trial<'_>) -> Outcome {
    const CHUNKS: u32 = 20;
    const CHUNK_BYTES: usize = 1_000_000;
    /// More than any storage needs to hold at a time.
    const PIECE_LIMIT_BYTES: usize = 8 * 1024 * 1024;
    let (storage, file) = (trial.storage, trial.path("file"));
    let mut written = blake3::Hasher::new();
    let mut writer = trial.ok(storage.create(&file, CreateMode::New).await, "create")?;
    for chunk in 0..CHUNKS {
        let mut bytes = vec![0; CHUNK_BYTES];
        blake3::Hasher::new()
            .update(&chunk.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        written.update(&bytes);
        trial.ok(writer.write(Bytes::from(bytes)).await, "write")?;
    }
    trial.absent(&file, "before finish").await?;
    trial.ok(writer.finish().await, "finish")?;
    let expected_bytes = u64::from(CHUNKS) * CHUNK_BYTES as u64;
    trial.same(
        &trial.stat(&file).await?.len_bytes,
        &expected_bytes,
        "length",
    )?;

    let mut read = blake3::Hasher::new();
    let mut largest_piece = 0;
    let mut pieces = trial.ok(storage.open_read(&file).await, "open")?;
    while let Some(piece) = pieces.next().await {
        let piece = trial.ok(piece, "read a piece")?;
        largest_piece = largest_piece.max(piece.len());
        read.update(&piece);
    }
    trial.same(
        &read.finalize(),
        &written.finalize(),
        "digest of the content",
    )?;
    trial.expect(largest_piece <= PIECE_LIMIT_BYTES, || {
        format!("a piece of {largest_piece} bytes")
    })?;
    let read = storage
        .read_small(&file, expected_bytes - 1)
        .await
        .map(|_| ());
    trial.refused(read, ErrorKind::TooLarge, "read of a large file")?;
    // A stream that is not read to its end holds nothing up.
    let mut pieces = trial.ok(storage.open_read(&file).await, "open")?;
    trial.expect(
        pieces.next().await.is_some_and(|piece| piece.is_ok()),
        || "no first piece".to_owned(),
    )?;
    drop(pieces);
    let removal = trial.ok(storage.delete_file(&file).await, "delete")?;
    trial.same(&removal, &Removal::Deleted, "delete")
}

/// Whatever stands in the trial's directory has a name that marks it as temporary.
async fn only_temporary_names(trial: &Trial<'_>, what: &str) -> Outcome {
    let listed = trial.storage.list(&trial.dir, super::Depth::Tree).await;
    for entry in trial.ok(listed, "list")? {
        let name = entry.path.name();
        let temporary = name.starts_with('.') && name.ends_with(".stepdown-tmp");
        trial.expect(temporary, || format!("{name:?} is visible {what}"))?;
    }
    Ok(())
}
