//! A trial over the loopback: both sides, strangers, and what neither may do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use causeway_survey::path::{Limits, PathError, Sink, Token, send};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn limits() -> Limits {
    Limits { bytes: 32 << 20, stream: Duration::from_millis(400), wait: Duration::from_secs(20) }
}

#[test]
fn both_sides_agree_on_what_arrived() {
    let token = Token::random().unwrap();
    let sink = Sink::bind(LOOPBACK, token, limits()).unwrap();
    let address = sink.address();
    let serving = thread::spawn(move || sink.serve());
    let sent = send(address, &token, limits()).unwrap();
    let counted = serving.join().unwrap().unwrap();
    assert_eq!(sent.bytes, counted.bytes);
    // JSON may cost a rate its last bit.
    assert!((sent.rate / counted.rate - 1.0).abs() < 1e-12);
    assert!(sent.bytes > 0 && sent.bytes <= limits().bytes);
    assert!(sent.rate > 0.0 && sent.cv.is_finite());
    assert!(sent.rtt_s > 0.0, "the source measures the round trip");
}

#[test]
fn the_sinks_limits_hold_for_a_greedy_source() {
    let token = Token::random().unwrap();
    let narrow = Limits { bytes: 1 << 20, ..limits() };
    let sink = Sink::bind(LOOPBACK, token, narrow).unwrap();
    let address = sink.address();
    let serving = thread::spawn(move || sink.serve());
    let greedy = Limits { bytes: u64::MAX, stream: Duration::from_secs(3600), ..limits() };
    let sent = send(address, &token, greedy).unwrap();
    assert!(sent.bytes <= narrow.bytes, "{}", sent.bytes);
    serving.join().unwrap().unwrap();
}

#[test]
fn a_wrong_token_gets_nothing_and_spoils_nothing() {
    let token = Token::random().unwrap();
    let sink = Sink::bind(LOOPBACK, token, limits()).unwrap();
    let address = sink.address();
    let serving = thread::spawn(move || sink.serve());
    let stranger = send(address, &Token::random().unwrap(), limits()).unwrap_err();
    assert!(matches!(stranger, PathError::Stranger(_)), "{stranger}");
    send(address, &token, limits()).unwrap();
    serving.join().unwrap().unwrap();
}

#[test]
fn silent_and_babbling_strangers_do_not_keep_the_source_out() {
    let token = Token::random().unwrap();
    let sink = Sink::bind(LOOPBACK, token, limits()).unwrap();
    let address = sink.address();
    let serving = thread::spawn(move || sink.serve());
    let mut strangers: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stranger in strangers.iter_mut().skip(4) {
        // The sink may have closed already.
        let _ = stranger.write_all(&[b'x'; 64]);
    }
    send(address, &token, limits()).unwrap();
    serving.join().unwrap().unwrap();
}

#[test]
fn a_token_opens_once() {
    let token = Token::random().unwrap();
    let sink = Sink::bind(LOOPBACK, token, limits()).unwrap();
    let address = sink.address();
    let serving = thread::spawn(move || sink.serve());
    send(address, &token, limits()).unwrap();
    serving.join().unwrap().unwrap();
    let second = send(address, &token, limits()).unwrap_err();
    assert!(matches!(second, PathError::Io { .. }), "{second}");
}

#[test]
fn a_sink_that_nobody_calls_ends_by_itself() {
    let patience = Limits { wait: Duration::from_millis(50), ..limits() };
    let sink = Sink::bind(LOOPBACK, Token::random().unwrap(), patience).unwrap();
    assert!(matches!(sink.serve(), Err(PathError::Nobody(_))));
}

#[test]
fn a_source_that_goes_away_is_an_error_not_a_rate() {
    let token = Token::random().unwrap();
    let sink = Sink::bind(LOOPBACK, token, limits()).unwrap();
    let address = sink.address();
    let serving = thread::spawn(move || sink.serve());
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"CWPROBE1").unwrap();
    let text = String::from(token);
    let bytes: Vec<u8> = (0..16).map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap()).collect();
    stream.write_all(&bytes).unwrap();
    let mut answer = [0; 24];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[..8], b"CWPROBE1");
    drop(stream);
    assert!(serving.join().unwrap().is_err());
}

#[test]
fn another_service_is_not_taken_for_a_sink() {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    let other = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").unwrap();
        // Until the source has gone.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = send(address, &Token::random().unwrap(), limits()).unwrap_err();
    assert!(matches!(error, PathError::Stranger(_)), "{error}");
    other.join().unwrap();
}
