-- wrk -t1 -c32 -d10s -s publish.lua http://127.0.0.1:9090 -- [messages in a batch] [requests pipelined] [rooms]
-- Publishes over HTTP: single messages, or batches; to as many rooms as are asked for, in turn.
local batch, depth, rooms, at = 1, 1, 16, 0
local headers = { ["Content-Type"] = "application/json" }
local key = os.getenv("TIDEWHEEL_API_KEY")
if key then headers["Authorization"] = "Bearer " .. key end

local function single()
  at = at + 1
  local path = "/api/v1/rooms/wrk-" .. (at % rooms) .. "/messages"
  return wrk.format("POST", path, headers, '{"payload":{"text":"high tide at the harbour","n":' .. at .. "}}")
end

local function many()
  local messages = {}
  for n = 1, batch do
    at = at + 1
    messages[n] = '{"room":"wrk-' .. (at % rooms) .. '","payload":{"text":"high tide at the harbour","n":' .. at .. "}}"
  end
  local body = '{"messages":[' .. table.concat(messages, ",") .. "]}"
  return wrk.format("POST", "/api/v1/publish", headers, body)
end

function init(args)
  batch, depth, rooms = tonumber(args[1] or 1), tonumber(args[2] or 1), tonumber(args[3] or 16)
end

function request()
  local requests = {}
  for n = 1, depth do
    requests[n] = batch == 1 and single() or many()
  end
  return table.concat(requests)
end
