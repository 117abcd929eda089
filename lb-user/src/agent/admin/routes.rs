//! Paths and methods, and their description as an OpenAPI document.

use std::{net::IpAddr, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        self, DefaultBodyLimit, FromRequest as _, Path, Query, State,
        rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, patch, post, put},
};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use utoipa::OpenApi;

use super::{Call, Change, Peer, Refused, Reply, Request};
use crate::api;

/// Largest body of most requests, in MiB.
const BODY: usize = 1;

/// Largest body that brings a configuration file, in MiB: it may fill all maps.
const FILE_BODY: usize = 64;

/// How long a client may take to send a body.
const SENDING: Duration = Duration::from_secs(30);

/// Where calls wait for the controller.
pub(super) type Queue = mpsc::Sender<Call>;

/// The other end of a connection.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) queue: Queue,
    pub(super) peer: Peer,
}

type Asking = State<Caller>;
type Body<T> = Result<Json<T>, JsonRejection>;
type Asked<T> = Result<Query<T>, QueryRejection>;
type Named<T = String> = Result<Path<T>, PathRejection>;

/// `?service=NAME`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfService {
    service: Option<String>,
}

/// Most flows in an answer: they are all in memory at once.
const FLOWS: u64 = 10_000;

/// [`api::FlowFilter`] and `limit`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfFlows {
    service: Option<String>,
    client: Option<IpAddr>,
    backend: Option<String>,
    limit: Option<u64>,
}

pub(super) fn router() -> Router<Caller> {
    let backend = "/v1/services/{service}/backends/{backend}";
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services).post(add_service))
        .route("/v1/services/{name}", get(service))
        .route("/v1/services/{name}", patch(set_service).delete(remove_service))
        .route("/v1/services/{name}/backends", post(add_backend))
        .route(backend, patch(set_backend).delete(remove_backend))
        .route("/v1/services/{service}/backends/{backend}/admin", put(order))
        .route("/v1/backends", get(backends))
        .route("/v1/firewall", get(firewall))
        .route("/v1/firewall/allow", put(allow))
        .route("/v1/firewall/deny", put(deny))
        .route("/v1/flows", get(flows))
        .route("/v1/flows", delete(flush_flows))
        .route("/v1/flows/count", get(count_flows))
        .route("/v1/stats", get(stats))
        .route("/v1/plan", post(plan))
        .route("/v1/reload", post(reload))
        .route("/v1/reload/confirm", post(confirm))
        .route("/v1/explain", post(explain))
        .route("/v1/ha", get(ha))
        .route("/v1/ha/conflicts", get(conflicts).delete(clear_conflicts))
        .route("/v1/ha/failover", post(fail_over))
        .route("/v1/ha/resync", post(resync))
        .route("/v1/openapi.json", get(async || Json(Document::openapi())))
        .fallback(async || {
            Refused::new(StatusCode::NOT_FOUND, "no such path").hint("see `/v1/openapi.json`")
        })
        .method_not_allowed_fallback(async || {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
                .hint("see `/v1/openapi.json`")
        })
        .layer(middleware::from_fn(take_in))
}

/// Takes a request's body in, for which there are limits of time and size.
async fn take_in(request: extract::Request, next: Next) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let mut request = extract::Request::from_parts(head.clone(), body);
    let brings_file = ["/v1/plan", "/v1/reload"].contains(&head.uri.path());
    let most = if brings_file { FILE_BODY } else { BODY };
    DefaultBodyLimit::max(most << 20).apply(&mut request);
    let late = |_| Refused::new(StatusCode::REQUEST_TIMEOUT, "the request did not come to its end");
    let body = timeout(SENDING, Bytes::from_request(request, &())).await.map_err(late)?;
    let body = body.map_err(|rejection: BytesRejection| {
        Refused::new(rejection.status(), rejection.body_text())
            .hint(format!("send {most} MiB at most"))
    })?;
    let mut request = extract::Request::from_parts(head, body.into());
    // What was taken in may be read.
    DefaultBodyLimit::disable().apply(&mut request);
    Ok(next.run(request).await)
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(self.refusal)).into_response()
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
            .hint("send JSON with `content-type: application/json`, see `/v1/openapi.json`")
    }
}

impl From<PathRejection> for Refused {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text()).hint("names in paths are UTF-8")
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text()).hint("see `/v1/openapi.json`")
    }
}

async fn ask(caller: Caller, request: Request) -> Result<Json<serde_json::Value>, Refused> {
    let gone = || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is about to end");
    let Caller { queue, peer } = caller;
    let (reply, answer) = oneshot::channel::<Reply>();
    queue.send(Call { request, peer, reply }).await.map_err(|_| gone())?;
    Ok(Json(answer.await.map_err(|_| gone())??))
}

type Answer = Result<Json<serde_json::Value>, Refused>;

/// Node, version, generation, interfaces, flows
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = api::Status)))]
async fn status(caller: Asking) -> Answer {
    ask(caller.0, Request::Status).await
}

/// All services
#[utoipa::path(get, path = "/v1/services", responses((status = 200, body = Vec<api::Service>)))]
async fn services(caller: Asking) -> Answer {
    ask(caller.0, Request::Services).await
}

/// One service, its backends and keys
#[utoipa::path(get, path = "/v1/services/{name}", responses((status = 200, body = api::ServiceDetail)))]
async fn service(caller: Asking, name: Named) -> Answer {
    ask(caller.0, Request::Service(name?.0)).await
}

/// Add a service: the keys of `[[service]]`
#[utoipa::path(post, path = "/v1/services", request_body = Object,
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn add_service(caller: Asking, body: Body<api::Table>) -> Answer {
    ask(caller.0, Request::Edit(Change::AddService(body?.0))).await
}

/// Set keys of a service
#[utoipa::path(patch, path = "/v1/services/{name}", request_body = Object,
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn set_service(caller: Asking, name: Named, body: Body<api::Table>) -> Answer {
    ask(caller.0, Request::Edit(Change::SetService(name?.0, body?.0))).await
}

/// Remove a service
#[utoipa::path(delete, path = "/v1/services/{name}",
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn remove_service(caller: Asking, name: Named) -> Answer {
    ask(caller.0, Request::Edit(Change::RemoveService(name?.0))).await
}

/// All backends, or those of a service
#[utoipa::path(get, path = "/v1/backends", params(("service" = Option<String>, Query)),
    responses((status = 200, body = Vec<api::Backend>)))]
async fn backends(caller: Asking, query: Asked<OfService>) -> Answer {
    ask(caller.0, Request::Backends(query?.0.service)).await
}

/// Add a backend: the keys of `[[service.backend]]`
#[utoipa::path(post, path = "/v1/services/{name}/backends", request_body = Object,
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn add_backend(caller: Asking, service: Named, body: Body<api::Table>) -> Answer {
    ask(caller.0, Request::Edit(Change::AddBackend(service?.0, body?.0))).await
}

/// Set keys of a backend
#[utoipa::path(patch, path = "/v1/services/{service}/backends/{backend}", request_body = Object,
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn set_backend(
    caller: Asking,
    names: Named<(String, String)>,
    body: Body<api::Table>,
) -> Answer {
    let Path((service, backend)) = names?;
    ask(caller.0, Request::Edit(Change::SetBackend(service, backend, body?.0))).await
}

/// Order a backend to be ready, to drain or to stop
#[utoipa::path(put, path = "/v1/services/{service}/backends/{backend}/admin",
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn order(
    caller: Asking,
    names: Named<(String, String)>,
    body: Body<api::AdminOrder>,
) -> Answer {
    let Path((service, backend)) = names?;
    ask(caller.0, Request::Edit(Change::Order(service, backend, body?.0))).await
}

/// Remove a backend
#[utoipa::path(delete, path = "/v1/services/{service}/backends/{backend}",
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn remove_backend(caller: Asking, names: Named<(String, String)>) -> Answer {
    let Path((service, backend)) = names?;
    ask(caller.0, Request::Edit(Change::RemoveBackend(service, backend))).await
}

/// Port policy and denied sources
#[utoipa::path(get, path = "/v1/firewall", responses((status = 200, body = api::Firewall)))]
async fn firewall(caller: Asking) -> Answer {
    ask(caller.0, Request::Firewall).await
}

/// Open a port to the host, or close it
#[utoipa::path(put, path = "/v1/firewall/allow",
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn allow(caller: Asking, body: Body<api::AllowOrder>) -> Answer {
    ask(caller.0, Request::Edit(Change::Allow(body?.0))).await
}

/// Deny a source, for a while or for good, or admit it again
#[utoipa::path(put, path = "/v1/firewall/deny",
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn deny(caller: Asking, body: Body<api::DenyOrder>) -> Answer {
    ask(caller.0, Request::Edit(Change::Deny(body?.0))).await
}

/// Flows of the affinity table
#[utoipa::path(get, path = "/v1/flows",
    params(api::FlowFilter, ("limit" = Option<u64>, Query, minimum = 1, maximum = 10_000)),
    responses((status = 200, body = Vec<api::Flow>), (status = "4XX", body = api::Refusal)))]
async fn flows(caller: Asking, query: Asked<OfFlows>) -> Answer {
    let OfFlows { service, client, backend, limit } = query?.0;
    let limit = limit.unwrap_or(1_000);
    if !(1..=FLOWS).contains(&limit) {
        let error = format!("`limit` is {limit}, expected 1 to {FLOWS}");
        return Err(Refused::new(StatusCode::UNPROCESSABLE_ENTITY, error)
            .hint("ask for fewer by `service`, `client` or `backend`"));
    }
    ask(caller.0, Request::Flows(api::FlowFilter { service, client, backend }, limit as usize))
        .await
}

/// How many flows there are
#[utoipa::path(get, path = "/v1/flows/count", params(api::FlowFilter),
    responses((status = 200, body = api::FlowCount), (status = "4XX", body = api::Refusal)))]
async fn count_flows(caller: Asking, query: Asked<api::FlowFilter>) -> Answer {
    ask(caller.0, Request::CountFlows(query?.0)).await
}

/// Forget flows: their next packet is that of a new flow
#[utoipa::path(delete, path = "/v1/flows", params(api::FlowFilter),
    responses((status = 200, body = api::FlowCount), (status = "4XX", body = api::Refusal)))]
async fn flush_flows(caller: Asking, query: Asked<api::FlowFilter>) -> Answer {
    ask(caller.0, Request::FlushFlows(query?.0)).await
}

/// Counters
#[utoipa::path(get, path = "/v1/stats", responses((status = 200, body = api::Stats)))]
async fn stats(caller: Asking) -> Answer {
    ask(caller.0, Request::Stats).await
}

/// What a configuration file would change
#[utoipa::path(post, path = "/v1/plan",
    responses((status = 200, body = api::Outlook), (status = "4XX", body = api::Refusal)))]
async fn plan(caller: Asking, body: Body<api::FileText>) -> Answer {
    ask(caller.0, Request::Plan(body?.0)).await
}

/// Put a configuration file in force, whole or not at all
#[utoipa::path(post, path = "/v1/reload",
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn reload(caller: Asking, body: Body<api::Reload>) -> Answer {
    ask(caller.0, Request::Reload(body?.0)).await
}

/// Keep what a reload with `confirm_s` put in force
#[utoipa::path(post, path = "/v1/reload/confirm",
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn confirm(caller: Asking) -> Answer {
    ask(caller.0, Request::Confirm).await
}

/// What the loaded program does with a packet
#[utoipa::path(post, path = "/v1/explain",
    responses((status = 200, body = api::Explanation), (status = "4XX", body = api::Refusal)))]
async fn explain(caller: Asking, body: Body<api::Question>) -> Answer {
    ask(caller.0, Request::Explain(body?.0)).await
}

/// The pair: roles, terms, the peer
#[utoipa::path(get, path = "/v1/ha",
    responses((status = 200, body = api::HaStatus), (status = "4XX", body = api::Refusal)))]
async fn ha(caller: Asking) -> Answer {
    ask(caller.0, Request::Ha).await
}

/// Hand a group over to the peer, or all that this node serves
#[utoipa::path(post, path = "/v1/ha/failover",
    responses((status = 200, body = api::FailedOver), (status = "4XX", body = api::Refusal)))]
async fn fail_over(caller: Asking, body: Body<api::FailoverOrder>) -> Answer {
    ask(caller.0, Request::Failover(body?.0)).await
}

/// Have both nodes of the pair tell each other all flows again
#[utoipa::path(post, path = "/v1/ha/resync",
    responses((status = 200, body = api::HaStatus), (status = "4XX", body = api::Refusal)))]
async fn resync(caller: Asking) -> Answer {
    ask(caller.0, Request::Resync).await
}

/// Changes that gave way to others while the nodes of the pair did not hear each other
#[utoipa::path(get, path = "/v1/ha/conflicts",
    responses((status = 200, body = [api::HaConflict]), (status = "4XX", body = api::Refusal)))]
async fn conflicts(caller: Asking) -> Answer {
    ask(caller.0, Request::Conflicts).await
}

/// Forget them, on both nodes
#[utoipa::path(delete, path = "/v1/ha/conflicts",
    responses((status = 200, body = api::Done), (status = "4XX", body = api::Refusal)))]
async fn clear_conflicts(caller: Asking) -> Answer {
    ask(caller.0, Request::ClearConflicts).await
}

/// The document at `/v1/openapi.json`.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "lb admin API",
        description = "Over the agent's Unix socket, for root, the socket's owner and the members \
                       of its group (`admin.group`); programs of `exec` probes are brought \
                       in by root and the agent's user only."
    ),
    paths(
        status,
        services,
        service,
        add_service,
        set_service,
        remove_service,
        backends,
        add_backend,
        set_backend,
        order,
        remove_backend,
        firewall,
        allow,
        deny,
        flows,
        count_flows,
        flush_flows,
        stats,
        plan,
        reload,
        confirm,
        explain,
        ha,
        fail_over,
        resync,
        conflicts,
        clear_conflicts
    )
)]
struct Document;
