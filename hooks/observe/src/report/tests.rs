use super::*;

#[test]
fn spans_are_written_for_people() {
    for (nanos, text) in [
        (0, "0 µs"),
        (9_400, "9 µs"),
        (999_499, "999 µs"),
        (999_500, "1.0 ms"),
        (7_040_000, "7.0 ms"),
        (99_949_999, "99.9 ms"),
        (99_950_000, "100 ms"),
        (312_499_999, "312 ms"),
        (9_999_499_999, "9999 ms"),
        (9_999_500_000, "10.00 s"),
        (13_261_000_000, "13.26 s"),
    ] {
        assert_eq!(readable(Duration::from_nanos(nanos)), text);
    }
}

#[test]
fn the_spread_is_over_moves_that_were_made() {
    let mut report = sample::report();
    let spread = report.silence(1).unwrap();
    assert_eq!(spread.moves, 2, "the failed move does not count");
    assert_eq!(spread.median, Duration::from_millis(350));
    assert_eq!(spread.worst, Duration::from_millis(600));
    assert_eq!(spread.worst_move, 2);
    assert_eq!(report.network_share().unwrap().median, Duration::from_millis(7));
    assert!(!report.is_complete());
    assert_eq!(report.silence(2), None);
    report.moves.clear();
    assert_eq!(report.silence(0), None);
    assert!(page(&report).unwrap().contains("0 of 3 moves made"));
}

#[test]
fn the_page_stands_alone_and_holds_no_foreign_markup() {
    let mut report = sample::report();
    report.stopped = Some(Stopped::Capture { why: sample::HOSTILE.to_owned() });
    let page = page(&report).unwrap();
    assert!(!page.contains("<script"));
    assert_eq!(page.matches("&lt;script&gt;alert(&quot;1&quot;)").count(), 2);
    for outside in ["href=", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<svg").count(), 1 + 3);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(page.contains("silent for 600 ms"));
    assert!(page.contains("first at destination"));
}

#[test]
fn many_moves_stay_readable() {
    let mut report = sample::report();
    let mut many = Vec::new();
    for _ in 0..200 {
        many.append(&mut sample::report().moves);
    }
    for (number, result) in (1..).zip(&mut many) {
        result.number = number;
    }
    report.moves = many;
    let page = page(&report).unwrap();
    assert_eq!(page.matches("<svg").count(), 1 + 12, "the plots of the longest silences only");
    assert!(page.contains("worst of 5 neighbouring moves"));
    assert!(page.contains("1000 more rows"));
    assert!(page.len() < 4_000_000, "{} bytes", page.len());
}

#[test]
fn writing_puts_every_file_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut report = sample::report();
    report.plan.output = dir.path().to_owned();
    let files = write(&report).unwrap();
    assert_eq!(files.len(), 4);
    assert!(files.iter().all(|f| std::fs::metadata(f).unwrap().len() > 50));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
}
