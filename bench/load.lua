-- Load for wrk. Arguments (after --): what to send, API key, number of accounts, connections, a
-- token that makes this round's idempotency keys its own, prefix of the keys that were used before.
-- Requests are put together by hand: the generator shares the machine with what it measures.
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

local BATCH = 100
local STEPS = 13 -- of an interaction of a proxy: a check and twelve charges under one key

local function identity(user)
  return '{"oauth_provider":"oauth:google","external_id":"user-' .. user .. '"'
end

local function charge(user, key)
  return identity(user) .. ',"amount_minor":1,"currency":"USD","description":"Message interaction",'
    .. '"idempotency_key":"' .. key .. '"}'
end

local function post(path, body)
  return "POST " .. path .. headers .. "Content-Length: " .. #body .. "\r\n\r\n" .. body
end

local function any_user()
  return math.random(0, accounts - 1)
end

local function new_key()
  count = count + 1
  return prefix .. count
end

local CHECK, CHARGE = "/v1/billing/credits/check", "/v1/billing/charges"

local kinds = {}

function kinds.check()
  return post(CHECK, identity(any_user()) .. "}")
end

function kinds.charge()
  return post(CHARGE, charge(any_user(), new_key()))
end

function kinds.replay()
  local user = any_user()
  return post(CHARGE, charge(user, used .. user))
end

function kinds.mixed()
  -- As many interactions as connections are under way; each goes on when its turn comes again.
  turn = turn % conversations + 1
  local one = interactions[turn]
  if one == nil or one.step == STEPS then
    one = { step = 1, user = any_user(), key = "litellm:" .. new_key() }
    interactions[turn] = one
    return post(CHECK, identity(one.user) .. "}")
  end
  one.step = one.step + 1
  return post(CHARGE, charge(one.user, one.key))
end

function kinds.soak()
  turn = 1 - turn
  return turn == 1 and kinds.check() or kinds.charge()
end

-- A hold, and its capture as soon as its answer is there.
function kinds.hold()
  local hold_id = table.remove(holds)
  if hold_id then
    return post("/v1/billing/holds/" .. hold_id .. "/capture", '{"amount_minor":1}')
  end
  return post("/v1/billing/holds", identity(any_user()) .. ',"amount_minor":1,"currency":"USD",'
    .. '"description":"Message interaction","idempotency_key":"' .. new_key() .. '"}')
end

local function remember_hold(status, _, body)
  if status == 201 then
    table.insert(holds, 1, body:match('"hold_id":"([^"]+)"'))
  end
end

function kinds.batch()
  local charges = {}
  for index = 1, BATCH do
    charges[index] = charge(any_user(), new_key())
  end
  return post("/v1/billing/charges:batch", '{"charges":[' .. table.concat(charges, ",") .. "]}")
end

local function page(limit)
  return "GET /v1/billing/transactions?oauth_provider=oauth:google&limit=" .. limit
    .. "&external_id=user-" .. any_user() .. headers .. "\r\n"
end

function kinds.history()
  return page(50)
end

function kinds.history10()
  return page(10)
end

function kinds.echo()
  return post("/", charge(any_user(), new_key()))
end

function request()
  return kind()
end

function init(arguments)
  kind = kinds[arguments[1]]
  accounts = tonumber(arguments[3])
  prefix = arguments[5] .. "-" .. number .. "-"
  used = arguments[6]
  count, turn, interactions, holds = 0, 0, {}, {}
  if arguments[1] == "hold" then
    response = remember_hold
  end
  conversations = math.max(1, math.floor(tonumber(arguments[4]) / math.min(2, tonumber(arguments[4]))))
  headers = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\nX-API-Key: " .. arguments[2]
    .. "\r\nContent-Type: application/json\r\n"
  math.randomseed(number * 7919 + os.time())
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "p50": %f, "p95": %f, "p99": %f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000,
    latency:percentile(95) / 1000, latency:percentile(99) / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
