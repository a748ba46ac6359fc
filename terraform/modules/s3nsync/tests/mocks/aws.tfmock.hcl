# Answers for the provider that is played: only what the module reads, in forms that the provider accepts.

mock_data "aws_caller_identity" {
  defaults = { account_id = "111122223333" }
}

mock_data "aws_partition" {
  defaults = { partition = "aws" }
}

mock_data "aws_region" {
  defaults = { name = "eu-central-1" }
}

mock_data "aws_availability_zones" {
  defaults = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
}

mock_data "aws_iam_policy_document" {
  defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
}

mock_data "aws_s3_bucket" {
  defaults = {
    arn    = "arn:aws:s3:::media"
    region = "eu-central-1"
  }
}

# The default VPC as AWS makes it, with the route table of a NAT gateway.

mock_data "aws_route_tables" {
  defaults = { ids = ["rtb-0a1b2c3d"] }
}

mock_data "aws_route_table" {
  defaults = {
    vpc_id = "vpc-0a1b2c3d"
    routes = [{
      cidr_block                 = "0.0.0.0/0"
      nat_gateway_id             = "nat-0a1b2c3d"
      gateway_id                 = ""
      carrier_gateway_id         = ""
      core_network_arn           = ""
      destination_prefix_list_id = ""
      egress_only_gateway_id     = ""
      instance_id                = ""
      ipv6_cidr_block            = ""
      local_gateway_id           = ""
      network_interface_id       = ""
      transit_gateway_id         = ""
      vpc_endpoint_id            = ""
      vpc_peering_connection_id  = ""
    }]
  }
}

mock_data "aws_vpc" {
  defaults = { cidr_block = "172.31.0.0/16" }
}

mock_data "aws_subnets" {
  defaults = { ids = ["subnet-00000001"] }
}

mock_data "aws_subnet" {
  defaults = {
    vpc_id     = "vpc-0a1b2c3d"
    cidr_block = "172.31.255.0/24"
    tags       = {}
  }
}
