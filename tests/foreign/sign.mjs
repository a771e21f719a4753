// Signs bodies with GitHub's own code: reads a JSON list of messages, writes a JSON list of their headers.
import { text } from "node:stream/consumers";
import { sign } from "@octokit/webhooks-methods";

const headers = { github: "X-Hub-Signature-256", bitbucket: "X-Hub-Signature" };
const messages = JSON.parse(await text(process.stdin));
const signed = messages.map(async ({ scheme, secret, body }) => ({ [headers[scheme]]: await sign(secret, body) }));
process.stdout.write(JSON.stringify(await Promise.all(signed)));
