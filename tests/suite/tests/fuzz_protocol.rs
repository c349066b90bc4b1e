//! oned's lines under attack: nothing kills the reader, nothing makes it hold more than it may, and whatever is owed an
//! answer can be answered in one line.

use std::collections::VecDeque;

use causeway_core::protocol::{DriverOptions, Line, LineReader, Log, Message, Reply, Severity, TmOptions};

#[path = "../../fuzz/seeded.rs"]
mod seeded;

const LIMIT: usize = 4096;

/// The lines of a stream that arrives in pieces of `size` bytes.
fn lines(stream: &[u8], size: usize) -> VecDeque<Line> {
    let mut reader = LineReader::with_limit(LIMIT);
    let mut lines = VecDeque::new();
    for piece in stream.chunks(size) {
        reader.feed(piece, &mut lines);
        assert!(reader.held() <= LIMIT, "{} bytes held", reader.held());
    }
    lines
}

/// What a driver would answer, which has to be one line that names action and VM.
fn answer(message: &Message) {
    let (action, vm, reason) = match message {
        Message::Request(request) => {
            let document = request.document().map(|_| String::new()).map_err(|error| error.to_string());
            (request.action.clone(), request.vm, document.err().unwrap_or_default())
        }
        Message::Malformed(malformed) => match (&malformed.action, malformed.vm) {
            (Some(action), Some(vm)) => (action.clone(), vm, malformed.to_string()),
            _ => return,
        },
        Message::Init | Message::Finalize | Message::DriverCancel(_) => return,
    };
    let prefix = format!("{action} FAILURE {vm} ");
    for reply in [Reply::failure(action.clone(), vm, &reason), Reply::failure(action, vm, reason).about(7)] {
        let line = reply.render();
        assert!(
            line.starts_with(&prefix) && line.ends_with('\n') && line.matches('\n').count() == 1,
            "{line:?}"
        );
        let payload = line.strip_prefix(&prefix).unwrap_or_default();
        assert!(!payload.starts_with('-') && !payload.trim().is_empty(), "{line:?}");
    }
}

#[test]
fn fuzz_lines_and_messages() {
    seeded::fuzz("protocol", |stream| {
        let whole = lines(stream, stream.len().max(1));
        assert_eq!(lines(stream, 1), whole);
        assert_eq!(lines(stream, 13), whole);
        for line in &whole {
            if let Some(message) = Message::parse(line) {
                answer(&message);
                // Whatever is logged about it is not its payload.
                assert!(format!("{message:?}").len() < 1000);
            }
        }
    });
}

#[test]
fn fuzz_arguments_and_logs() {
    seeded::fuzz("protocol", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines() {
            let vmm = DriverOptions::parse([line]);
            // Splitting by oned's wrapper or by a shell makes no difference.
            assert_eq!(vmm, DriverOptions::parse(line.split_ascii_whitespace()));
            if let Err(error) = vmm {
                assert!(!error.to_string().is_empty());
            }
            if let Ok(tm) = TmOptions::parse([line]) {
                assert!(tm.threads > 0);
            }
        }
        let log = Log { severity: Severity::Debug, vm: None, text: text.into_owned() }.render();
        assert!(log.lines().all(|line| line.starts_with("LOG D -1 ")));
    });
}
