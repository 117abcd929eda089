//! `dns` probes.

use domain::base::{Message, MessageBuilder, Name, Rtype, iana::Rcode};
use tokio::net::UdpSocket;

use super::*;
use crate::core::model::health::Dns;

fn dns(name: &str) -> Probe {
    Probe::Dns(Dns { name: name.into(), record: "A".into() })
}

/// Answers every question as `answer` says.
async fn responder(answer: impl Fn(&Message<[u8]>) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            let question = Message::from_slice(&bytes[..length]).unwrap();
            socket.send_to(&answer(question), from).await.unwrap();
        }
    });
    address
}

/// The answer to a question, without records.
fn answer(question: &Message<[u8]>, rcode: Rcode) -> Vec<u8> {
    MessageBuilder::new_vec().start_answer(question, rcode).unwrap().finish()
}

async fn failure_for(answer: impl Fn(&Message<[u8]>) -> Vec<u8> + Send + 'static) -> String {
    failure(responder(answer).await, dns("www.example.test")).await
}

#[tokio::test]
async fn any_answer_but_servfail_and_refused_is_success() {
    for rcode in [Rcode::NOERROR, Rcode::NXDOMAIN] {
        success(responder(move |question| answer(question, rcode)).await, dns("x.test")).await;
    }
    for (rcode, reason) in
        [(Rcode::SERVFAIL, "answer SERVFAIL"), (Rcode::REFUSED, "answer REFUSED")]
    {
        assert_eq!(failure_for(move |question| answer(question, rcode)).await, reason);
    }
}

#[tokio::test]
async fn the_question_is_the_configured_one() {
    let address = responder(|question| {
        let asked = question.sole_question().unwrap();
        let name: Name<Vec<u8>> = "www.example.test".parse().unwrap();
        let right = asked.qname() == &name && asked.qtype() == Rtype::A && question.header().rd();
        answer(question, if right { Rcode::NOERROR } else { Rcode::REFUSED })
    })
    .await;
    success(address, dns("www.example.test.")).await;
}

#[tokio::test]
async fn the_answer_to_another_question_is_a_failure() {
    let mismatched = "answer to another question";
    let other_id = |question: &Message<[u8]>| {
        let mut answer = answer(question, Rcode::NOERROR);
        answer[0] ^= 1;
        answer
    };
    assert_eq!(failure_for(other_id).await, mismatched);
    // Not even marked as an answer.
    assert_eq!(failure_for(|question| question.as_slice().to_vec()).await, mismatched);
}

#[tokio::test]
async fn a_truncated_answer_is_a_failure() {
    let truncated = |question: &Message<[u8]>| {
        let mut answer = answer(question, Rcode::NOERROR);
        answer[2] |= 2;
        answer
    };
    assert_eq!(failure_for(truncated).await, "answer truncated");
    assert_eq!(failure_for(|_| b"garbage".to_vec()).await, "answer is not DNS");
    let cut = |question: &Message<[u8]>| answer(question, Rcode::NOERROR)[..14].to_vec();
    assert_eq!(failure_for(cut).await, "answer to another question");
}

#[tokio::test]
async fn a_question_that_cannot_be_asked_says_why() {
    let record = Probe::Dns(Dns { name: "x.test".into(), record: "AX".into() });
    assert_eq!(failure(nobody().await, record).await, "`AX` is no type of record");
    assert_eq!(failure(nobody().await, dns("x..test")).await, "`x..test` is no name in the DNS");
    assert_eq!(failure(nobody().await, dns("x.test")).await, "port unreachable");
}
