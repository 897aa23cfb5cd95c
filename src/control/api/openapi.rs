//! The description of the admin API: OpenAPI 3.1, made from the handlers and the types they name.
//!
//! What every call has in common is added here: the scope that it needs, by its tag, and the problems
//! that it may be answered with.

use std::sync::OnceLock;

use axum::body::Bytes;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa::OpenApi;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, ObjectBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Schema, Type,
};

use super::{node, publish, rooms, schema, users};
use crate::control::access::{Administering, Need, Publishing, Reading, Scope};

/// The name of the security scheme.
const KEY: &str = "api_key";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tidewheel admin API",
        description = "What a backend asks of a Tidewheel node: publish, look, and change who is where.",
    ),
    servers((url = "/", description = "The admin listener")),
    paths(
        publish::publish, publish::batch, publish::broadcast, publish::direct,
        rooms::list, rooms::room, rooms::members, rooms::history,
        users::user, users::join, users::leave, users::disconnect, users::ban, users::unban,
        node::node,
    ),
    components(schemas(schema::ProblemDetails)),
    tags(
        (name = "publish", description = "Sending: needs the scope publish."),
        (name = "rooms", description = "Looking at rooms and users: needs the scope read."),
        (name = "users", description = "Changing who is where: needs the scope admin."),
        (name = "node", description = "The server itself: needs the scope read."),
    ),
)]
struct Document;

/// A problem that calls may be answered with: its name, status and description.
type Row = (&'static str, u16, &'static str);

const BAD_REQUEST: Row = (
    "BadRequest",
    400,
    "The path, the query or the body is not of the documented form.",
);
const UNAUTHORIZED: Row = (
    "Unauthorized",
    401,
    "A key is needed, and none of them came.",
);
const FORBIDDEN: Row = (
    "Forbidden",
    403,
    "The key's scopes do not allow it; or, without keys, a page of another origin asked.",
);
const NOT_FOUND: Row = (
    "NotFound",
    404,
    "There is no such room, or the user has no connection.",
);
const TIMEOUT: Row = ("RequestTimeout", 408, "The body did not come in time.");
const TOO_LARGE: Row = (
    "ContentTooLarge",
    413,
    "The body, the batch or a message has more than may be.",
);
const MEDIA_TYPE: Row = ("UnsupportedMediaType", 415, "The body is no JSON in UTF-8.");
const UNAVAILABLE: Row = (
    "ServiceUnavailable",
    503,
    "A core is behind or gone, the store does not answer, or something is full. What was asked may \
     still happen where the problem says so; with a message_id it is safe to ask again.",
);

/// All of them.
const PROBLEMS: [Row; 8] = [
    BAD_REQUEST,
    UNAUTHORIZED,
    FORBIDDEN,
    NOT_FOUND,
    TIMEOUT,
    TOO_LARGE,
    MEDIA_TYPE,
    UNAVAILABLE,
];

/// The description as JSON, for everyone: there is nothing in it that the documentation has not.
pub(super) async fn openapi() -> impl IntoResponse {
    static JSON: OnceLock<Bytes> = OnceLock::new();
    let json = JSON.get_or_init(|| document().to_json().unwrap_or_default().into());
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (content_type, json.clone())
}

/// The description.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    let components = document.components.get_or_insert_default();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A key of --api-key-file. A server without one asks for none.",
        ))
        .build();
    components.add_security_scheme(KEY, SecurityScheme::Http(scheme));
    for row in PROBLEMS {
        let response = RefOr::T(problem(row));
        components.responses.insert(row.0.to_owned(), response);
    }
    for (path, item) in &mut document.paths.paths {
        let methods = [
            &mut item.get,
            &mut item.post,
            &mut item.put,
            &mut item.delete,
        ];
        for operation in methods.into_iter().flatten() {
            complete(path, operation);
        }
    }
    document
}

/// Adds what the calls have in common.
fn complete(path: &str, operation: &mut Operation) {
    let scope = scope_of(operation);
    operation.security = Some(vec![SecurityRequirement::new(KEY, [scope.text()])]);
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && parameter.parameter_in == ParameterIn::Path
        {
            parameter.schema = Some(RefOr::T(name()));
        }
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        let is_optional = path.ends_with("/ban") || path.ends_with("/disconnect");
        let required = if is_optional {
            Required::False
        } else {
            Required::True
        };
        body.required = Some(required);
    }
    let mut rows = vec![BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, UNAVAILABLE];
    if operation.request_body.is_some() {
        rows.extend([TIMEOUT, TOO_LARGE, MEDIA_TYPE]);
    }
    // What changes nothing where nobody is there is no error.
    let is_idle = ["disconnect", "ban", "unban", "leave"];
    let id = operation.operation_id.as_deref().unwrap_or_default();
    if path.contains('{') && !is_idle.contains(&id) {
        rows.push(NOT_FOUND);
    }
    for (name, status, _) in rows {
        let response = RefOr::Ref(Ref::from_response_name(name));
        let responses = &mut operation.responses.responses;
        responses.insert(status.to_string(), response);
    }
}

/// The scope that a call needs, by its tag.
fn scope_of(operation: &Operation) -> Scope {
    let tags = operation.tags.as_deref().unwrap_or_default();
    match tags.first().map(String::as_str) {
        Some("publish") => Publishing::SCOPE,
        Some("users") => Administering::SCOPE,
        _ => Reading::SCOPE,
    }
}

/// A name in a path.
fn name() -> Schema {
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(255))
        .pattern(Some(r"^[^\x00-\x1f\x7f-\x9f]+$"))
        .description(Some("1 to 255 bytes of UTF-8 without control characters"));
    Schema::Object(text.examples(["harbour"]).build())
}

fn problem((_, status, description): Row) -> Response {
    let schema = Ref::from_schema_name("ProblemDetails");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", content);
    let header = |description, kind| {
        HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(kind)))
            .description(Some(description))
            .build()
    };
    let response = match status {
        401 => response.header(
            "WWW-Authenticate",
            header("`Bearer`, and what is wrong", Type::String),
        ),
        503 => response.header(
            "Retry-After",
            header("Seconds to wait before asking again", Type::Integer),
        ),
        _ => response,
    };
    response.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_whole() {
        let document = document();
        let json = document.to_json().unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["openapi"], "3.1.0");
        let calls: Vec<(&String, &String)> = json["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |m| (path, m)))
            .collect();
        assert_eq!(calls.len(), 15);
        for (path, method) in calls {
            let operation = &json["paths"][path][method];
            assert!(operation["security"][0]["api_key"][0].is_string(), "{path}");
            for status in ["200", "400", "401", "403", "503"] {
                assert!(
                    operation["responses"][status].is_object(),
                    "{path} {status}"
                );
            }
        }
        // Every reference leads somewhere.
        let text = json.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(json.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
