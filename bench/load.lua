-- Load for wrk: one JSON POST per request, on random accounts. Arguments (after --):
-- path, API key, number of accounts, body template. In the template {user} becomes the account
-- and {key} an idempotency key nobody used before.
local path, key, accounts, template
local threads = 0
local run = tostring(os.time())

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(arguments)
  path, key, accounts, template = arguments[1], arguments[2], tonumber(arguments[3]), arguments[4]
  math.randomseed(number * 7919 + os.time())
  wrk.headers["X-API-Key"] = key
  wrk.headers["Content-Type"] = "application/json"
  count = 0
  failures = 0
end

function request()
  count = count + 1
  local body = template:gsub("{user}", "user-" .. math.random(1, accounts))
  body = body:gsub("{key}", run .. "-" .. number .. "-" .. count)
  return wrk.format("POST", path, nil, body)
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "p50": %f, "p95": %f, "p99": %f, "errors": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000,
    latency:percentile(95) / 1000, latency:percentile(99) / 1000,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
