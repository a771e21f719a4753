"""Signs requests with code that is not ours: reads a JSON list of messages, writes a JSON list of their headers."""

import datetime
import json
import sys
import types

from http_message_signatures import HTTPMessageSigner, MappingKeyResolver, algorithms
from slack_sdk.signature import SignatureVerifier
from standardwebhooks.webhooks import Webhook
from stripe import WebhookSignature


def rfc9421(message):
    request = types.SimpleNamespace(method=message["method"], url=message["url"], headers={})
    secret = message["secret"].encode()
    keys = {message["key"]: secret}
    signer = HTTPMessageSigner(
        signature_algorithm=algorithms.HMAC_SHA256,
        key_resolver=MappingKeyResolver(public_keys=keys, private_keys=keys),
    )
    covered = ["@method", "@authority", "@path"] + (["@query"] if "?" in message["url"] else [])
    signer.sign(
        request,
        key_id=message["key"],
        created=datetime.datetime.fromtimestamp(message["time"], datetime.timezone.utc),
        nonce=message["id"],
        covered_component_ids=covered,
        body=message["body"].encode(),
    )
    return request.headers


def standard_webhooks(message):
    time = datetime.datetime.fromtimestamp(message["time"], datetime.timezone.utc)
    signature = Webhook(message["secret"]).sign(message["id"], time, message["body"])
    return {"webhook-id": message["id"], "webhook-timestamp": str(message["time"]), "webhook-signature": signature}


def stripe(message):
    header = WebhookSignature.generate_signature_header(message["body"], message["secret"], message["time"])
    return {"Stripe-Signature": header}


def slack(message):
    time = str(message["time"])
    signature = SignatureVerifier(message["secret"]).generate_signature(timestamp=time, body=message["body"])
    return {"X-Slack-Request-Timestamp": time, "X-Slack-Signature": signature}


SCHEMES = {"rfc9421": rfc9421, "standard-webhooks": standard_webhooks, "stripe": stripe, "slack": slack}

json.dump([SCHEMES[message["scheme"]](message) for message in json.load(sys.stdin)], sys.stdout)
