//! Checks of one file: what a stat says, reading, touching, deleting, attributes.

use bytes::Bytes;
use futures::stream::StreamExt;

use super::conformance::{BelowFile, Check, Outcome, Trial};
use super::{Attributes, CreateMode, ErrorKind, FileKind, Removal, Span, StoragePath, Touched};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("stat shows an entry or not found", |trial| {
        Box::pin(stat(trial))
    }),
    ("read small takes no more than it may", |trial| {
        Box::pin(read_small(trial))
    }),
    ("a span is one end of a file", |trial| {
        Box::pin(read_span(trial))
    }),
    ("a stream gives the whole content in pieces", |trial| {
        Box::pin(open_read(trial))
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
];

/// The check that takes longest, so that others find what they are there to find before it.
pub(super) const LAST: &[(&str, Check)] = &[("a large file passes whole", |trial| {
    Box::pin(large_file(trial))
})];

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

async fn read_span(trial: &Trial<'_>) -> Outcome {
    let (storage, dir) = (trial.storage, trial.make_dir("dir").await?);
    let missing = storage
        .read_span(&trial.path("missing"), Span::Last(1))
        .await;
    trial.refused(missing, ErrorKind::NotFound, "span of a missing file")?;
    let directory = storage.read_span(&dir, Span::First(1)).await;
    trial.refused(directory, ErrorKind::IsADirectory, "span of a directory")?;
    let (file, empty) = (trial.path("file"), trial.path("empty"));
    trial.put(&file, b"twelve bytes").await?;
    trial.put_empty(&empty).await?;
    for (path, span, expected) in [
        (&file, Span::First(6), &b"twelve"[..]),
        (&file, Span::Last(5), b"bytes"),
        (&file, Span::First(0), b""),
        (&file, Span::Last(0), b""),
        (&file, Span::First(12), b"twelve bytes"),
        (&file, Span::Last(13), b"twelve bytes"),
        (&file, Span::First(u32::MAX), b"twelve bytes"),
        (&empty, Span::Last(21), b""),
    ] {
        let what = format!("{span:?} of {path}");
        let found = trial.ok(storage.read_span(path, span).await, &what)?;
        trial.same(&&found[..], &expected, &what)?;
    }
    Ok(())
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
    let mut last = vec![0; 1000];
    let mut end = blake3::Hasher::new()
        .update(&(CHUNKS - 1).to_le_bytes())
        .finalize_xof();
    end.set_position((CHUNK_BYTES - last.len()) as u64);
    end.fill(&mut last);
    let span = trial.ok(storage.read_span(&file, Span::Last(1000)).await, "span")?;
    trial.expect(span == last, || "the last bytes are others".to_owned())?;
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
